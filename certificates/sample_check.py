"""Whether sample and seeds follow from plan and beacon, and whether plan, beacon and measurement are in their order."""

from collections.abc import Sequence

from perturb.certificates import beacon as drand
from perturb.certificates.draw import attack_seed, sample
from perturb.certificates.plan import Plan, moment
from perturb.certificates.row_rules import row_faults
from perturb.certificates.statement import Observed, pulse_of
from perturb.certificates.tables import Row


def sample_faults(plan: Plan, observed: Observed, pool: Sequence[Row], results: Sequence[Row]) -> list[str]:
    """Return what is wrong with beacon, rows, sample and seeds, a sentence each; empty where they follow."""
    faults = _time_faults(plan, observed)
    pulse = pulse_of(observed)
    if (pulse is None) != (plan.beacon.kind == "none"):
        return [*faults, "the plan names a beacon and the statement has none, or the other way round"]
    randomness = drand.NO_RANDOMNESS
    if pulse is not None:
        randomness = pulse.randomness
        if pulse.round != plan.beacon.round:
            faults.append(f"the beacon is round {pulse.round}, the plan names round {plan.beacon.round}")
        elif not drand.is_genuine(pulse):
            faults.append(f"the signature of round {pulse.round} is not that of drand's quicknet")
    faults += row_faults(plan, pool, results)
    if faults:
        return faults
    identities = (row["identity"] for row in pool)
    expected = sample(identities, count=plan.n, plan_sha256=plan.draw_key, randomness=randomness)
    found = [row["identity"] for row in results if row["level"] == plan.levels[0]]
    for place, (one, other) in enumerate(zip(expected, found, strict=True)):
        if one != other:
            return [f"the sample is not the one that beacon and plan draw: image {place + 1} should be {one[:12]}…"]
    return [
        f"image {row['identity'][:12]}… at level {row['level']}: the seed is not the one that plan and beacon give"
        for row in results
        if row["seed"] is not None
        and row["seed"] != attack_seed(row["identity"], row["level"], plan_sha256=plan.sha256, randomness=randomness)
    ]


def _time_faults(plan: Plan, observed: Observed) -> list[str]:
    """What is wrong with the order of events: plan, beacon, measurement."""
    try:
        planned, until, measured = moment(plan.created_at), moment(plan.run_before), moment(observed.evaluatedAt)
    except ValueError:
        return ["a time of the plan or of the statement is not one in UTC, such as 2026-01-31T12:00:00Z"]
    faults = []
    if measured < planned:
        faults.append(f"the plan was made at {plan.created_at}, after the measurement at {observed.evaluatedAt}")
    if measured > until:
        faults.append(f"the plan had expired at {plan.run_before}, before the measurement at {observed.evaluatedAt}")
    if plan.beacon.kind == "none":
        return faults
    number = plan.beacon.round or 0
    if plan.beacon.chain_hash != drand.CHAIN_HASH or number != drand.round_after(planned):
        faults.append(
            f"round {number} is not the first one of quicknet a minute after the plan, made at {plan.created_at}; "
            f"that is {drand.round_after(planned)}"
        )
    if number and drand.time_of(min(number, 2**40)) > measured:
        faults.append(f"the measurement is older than round {number}, which chose its sample")
    return faults
