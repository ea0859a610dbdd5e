"""The images that a run measures: the beacon's round, and the sample that it draws from the plan's pool."""

from dataclasses import dataclass

from perturb.certificates import beacon as drand
from perturb.certificates.draw import sample
from perturb.certificates.folder import CertificateFolder
from perturb.certificates.plan import Plan, timestamp
from perturb.certificates.tables import POOL, Row, read_table, tree_root
from perturb.schemas.errors import AuditError, SettingsError
from perturb.schemas.settings import Settings


@dataclass(frozen=True, eq=False)
class Drawn:
    """The images to measure, in order, and what chose them; `pool` has the rows of pool.parquet."""

    pulse: drand.Pulse | None
    identities: list[str]
    pool: list[Row]

    @property
    def randomness(self) -> bytes:
        """The randomness that chose the sample; a constant without a beacon."""
        return _randomness(self.pulse)

    @property
    def labels(self) -> dict[str, int]:
        """The label of each image of the pool, by identity."""
        return {row["identity"]: row["label"] for row in self.pool}


def draw_images(plan: Plan, folder: CertificateFolder, source: str | None, settings: Settings) -> Drawn:
    """Return the sample of a plan. `source` says where the beacon's round comes from; it is kept once it was read.

    Raises AuditError where pool.parquet is not the plan's, SettingsError where the round can't be had.
    """
    pool = read_table(folder.read("pool.parquet"), POOL, "pool.parquet")
    if tree_root(pool) != plan.pool.root:
        raise AuditError(f"pool.parquet is not the pool of the plan in {folder.path}; restore it, or make a new plan")
    pulse = None
    if plan.beacon.kind != "none":
        assert plan.beacon.round is not None
        pulse = _pulse(folder, source, plan.beacon.round, settings)
    identities = sample(
        (row["identity"] for row in pool), count=plan.n, plan_sha256=plan.draw_key, randomness=_randomness(pulse)
    )
    return Drawn(pulse, identities, pool)


def _randomness(pulse: drand.Pulse | None) -> bytes:
    return drand.NO_RANDOMNESS if pulse is None else pulse.randomness


def _pulse(folder: CertificateFolder, source: str | None, number: int, settings: Settings) -> drand.Pulse:
    kept = folder.work("beacon")
    if kept is not None:
        return drand.Pulse.model_validate(kept)
    if source is None or source == "none":
        raise SettingsError(
            f"the plan's sample is chosen by round {number} of drand's quicknet, published at "
            f"{timestamp(drand.time_of(number))}; name where to get it with --beacon: a JSON file, an HTTP relay, or "
            "chain"
        )
    chain = None
    if source == "chain":
        from perturb.subnet.chain import open_chain

        chain = open_chain(settings.subnet)
    pulse = drand.obtain(source, number, chain=chain)
    folder.keep_work("beacon", pulse.model_dump())
    return pulse
