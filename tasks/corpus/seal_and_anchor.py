"""The daily step: seal a finished day, then put the root of the log on the chain."""

import logging
from datetime import UTC, date, datetime, timedelta

from pydantic import BaseModel

from perturb.schemas.errors import SubnetError
from perturb.schemas.pair import Reverify
from perturb.schemas.settings import Settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.log.log import Log
from perturb.subnet.chain import open_chain
from perturb.subnet.keys import LOCAL_NETWORK, load_keypair
from perturb.subnet.trust import load_trust
from perturb.tasks.corpus.consistency import length_at
from perturb.tasks.corpus.local_reverifier import local_reverifier
from perturb.tasks.corpus.seal import SealResult, seal_day

log = logging.getLogger(__name__)


class SealSummary(BaseModel):
    """A sealed day in numbers.

    `already` tells that the day was sealed before this call. `left` counts the rounds that were not taken in, because
    no trusted validator signed them, by the reason. `bytes` is the size of the day's files. `extrinsic` is
    the ID of the extrinsic that put the log's root on the chain, or None where none was sent.
    """

    day: date
    already: bool
    rounds: int
    left: dict[str, int] = {}
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
            rounds=manifest.rounds,
            left=dict(sealed.left),
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
    """Seal `day` (default: yesterday, UTC) of the configured corpus, and put the log's root on the chain.

    A day that is sealed already stays as it is; the root is sent if it is missing on the chain. `early` and `wait` are
    those of `seal_day`. Raises StoreError for a store that is not safe to write to, and what `seal_signed` and
    `anchor_newest` raise.
    """
    Corpus.open_for_writing(settings)
    sealed = seal_signed(settings, day or yesterday(), early=early, wait=wait, reverify=local_reverifier(settings))
    extrinsic = anchor_newest(settings, sealed.manifest.day)
    return SealSummary.of(sealed).model_copy(update={"extrinsic": extrinsic})


def seal_signed(settings: Settings, day: date, *, early: bool, wait: bool, reverify: Reverify) -> SealResult:
    """Seal `day` of the configured corpus, signed by the configured hotkey, after `reverify` checked a sample.

    Only rounds of this hotkey and of the trusted validators of the settings are taken in.

    Raises CorpusError for a day that cannot be sealed, and SettingsError or SubnetError for an unusable hotkey.
    """
    # Before the trust is loaded: it counts the own key only where there is one.
    signer = load_keypair(settings.subnet)
    return seal_day(
        Corpus.open(settings),
        day,
        settings=settings.seal,
        signer=signer,
        reverify=reverify,
        early=early,
        wait=wait,
        trust=load_trust(settings.subnet),
    )


def anchor_newest(settings: Settings, day: date) -> str | None:
    """Put the root of the log's newest head on the chain, after `day` was sealed. Return the extrinsic's ID, or None.

    That root proves every entry of the log, and through them every record of every day. None is returned where nothing
    was sent: on the local network, and where the root is on the chain already. Sealing asks this for a day that was
    sealed before too, because an earlier call may have ended between seal and commitment.

    Raises SubnetError that names the day where the chain cannot be read or written. The day stays sealed.
    """
    if settings.subnet.network == LOCAL_NETWORK:
        return None
    entries = Log(Corpus.open(settings).store, trust=load_trust(settings.subnet))
    newest = entries.newest()
    if newest is None:
        return None
    root = newest.head.root
    chain, keypair = open_chain(settings.subnet), load_keypair(settings.subnet)
    try:
        committed = chain.read_commitment(keypair.ss58_address)
        if committed == root:
            return None
        # A warning: the hotkey may have committed something else before this log began.
        if committed is not None and length_at(entries, newest, committed) is None:
            log.warning(
                "the chain shows %s for %s, a root that the log of %d entries never had; if an earlier seal of this "
                "corpus committed it, the log was cut or replaced: restore it from a copy, and run `perturb audit`",
                committed,
                keypair.ss58_address,
                newest.head.size,
            )
        return chain.commit(keypair, root)
    except SubnetError as error:
        raise SubnetError(
            f"{day} is sealed, but the log's root {root} is not on the chain: {error}; run `perturb seal --day {day}` "
            "again"
        ) from error
