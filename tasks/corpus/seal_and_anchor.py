"""The daily step: seal a finished day, then put its Merkle root on the chain."""

from datetime import UTC, date, datetime, timedelta

from pydantic import BaseModel

from perturb.schemas.errors import SubnetError
from perturb.schemas.pair import Reverify
from perturb.schemas.settings import Settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.subnet.chain import open_chain
from perturb.subnet.keys import LOCAL_NETWORK, load_keypair
from perturb.tasks.corpus.local_reverifier import local_reverifier
from perturb.tasks.corpus.seal import SealResult, seal_day


class SealSummary(BaseModel):
    """A sealed day in numbers.

    `already` tells that the day was sealed before this call. `bytes` is the size of the day's files. `extrinsic` is
    the ID of the extrinsic that put the Merkle root on the chain, or None where none was sent.
    """

    day: date
    already: bool
    rounds: int
    records: int
    images: int
    duplicates: int
    reverified: int
    bytes: int
    merkle_root: str
    extrinsic: str | None = None

    @classmethod
    def of(cls, sealed: SealResult) -> "SealSummary":
        """Return the summary of a sealed day whose root has not been sent."""
        manifest = sealed.manifest
        return cls(
            day=manifest.day,
            already=sealed.already,
            rounds=len(manifest.rounds),
            records=manifest.records,
            images=manifest.images,
            duplicates=manifest.duplicates,
            reverified=manifest.reverified.records,
            bytes=sealed.size,
            merkle_root=manifest.merkle_root,
        )


def yesterday() -> date:
    """Return the last UTC day that is over."""
    return datetime.now(UTC).date() - timedelta(days=1)


def seal_and_anchor(
    settings: Settings, *, day: date | None = None, early: bool = False, wait: bool = False
) -> SealSummary:
    """Seal `day` (default: yesterday, UTC) of the configured corpus, and put its Merkle root on the chain.

    A day that is sealed already stays as it is; its root is sent if it is missing on the chain. `early` and `wait` are
    those of `seal_day`. Raises StoreError for a store that is not safe to write to, and what `seal_signed` and
    `anchor_newest` raise.
    """
    Corpus.open_for_writing(settings)
    sealed = seal_signed(settings, day or yesterday(), early=early, wait=wait, reverify=local_reverifier(settings))
    extrinsic = anchor_newest(settings, sealed.manifest.day)
    return SealSummary.of(sealed).model_copy(update={"extrinsic": extrinsic})


def seal_signed(settings: Settings, day: date, *, early: bool, wait: bool, reverify: Reverify) -> SealResult:
    """Seal `day` of the configured corpus, signed by the configured hotkey, after `reverify` checked a sample.

    Raises CorpusError for a day that cannot be sealed, and SettingsError or SubnetError for an unusable hotkey.
    """
    return seal_day(
        Corpus.open(settings),
        day,
        settings=settings.seal,
        signer=load_keypair(settings.subnet),
        reverify=reverify,
        early=early,
        wait=wait,
    )


def anchor_newest(settings: Settings, day: date) -> str | None:
    """Put the Merkle root of sealed `day` on the chain if that day is the newest. Return the extrinsic's ID, or None.

    None is returned where nothing was sent: on the local network, for an older day, and where the root is on the chain
    already. A hotkey has one commitment, so the root of an older day would replace that of the newest. Sealing asks
    this for a day that was sealed before too, because an earlier call may have ended between seal and commitment.

    Raises SubnetError that names the day where the chain cannot be read or written. The day stays sealed.
    """
    if settings.subnet.network == LOCAL_NETWORK:
        return None
    newest = Corpus.open(settings).seal_log()[-1]
    if newest.day != day:
        return None
    chain, keypair = open_chain(settings.subnet), load_keypair(settings.subnet)
    try:
        if chain.read_commitment(keypair.ss58_address) == newest.merkle_root:
            return None
        return chain.commit(keypair, newest.merkle_root)
    except SubnetError as error:
        raise SubnetError(
            f"{day} is sealed, but its Merkle root {newest.merkle_root} is not on the chain: {error}; "
            f"run `perturb seal --day {day}` again"
        ) from error
