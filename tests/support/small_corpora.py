"""Small corpora of synthetic rounds, committed and sealed by the functions that production uses."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from perturb.schemas.settings import SealSettings
from perturb.schemas.signature import Signer
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.audit_report import AuditReport
from perturb.tasks.corpus.commit import RoundSummary, commit_round
from perturb.tasks.corpus.gc import collect_garbage
from perturb.tasks.corpus.seal import SealResult, seal_day
from tests.support.synthetic import DAY, SyntheticRound, make_round

TODAY = DAY.date()
LATER = datetime(2026, 2, 3, tzinfo=UTC)
NO_GRACE = timedelta(0)


def small(seed: int, **options: Any) -> SyntheticRound:
    """A round of three accepted answers and a refused one, 32 x 32 pixels; `options` are those of `make_round`."""
    return make_round(seed, **({"side": 32, "miners": 3} | options))


def commit(corpus: Corpus, made: SyntheticRound, keypair: Signer | None = None) -> RoundSummary:
    """Commit a round, signed by `keypair` if there is one."""
    return commit_round(
        corpus,
        made.challenge,
        made.responses,
        made.verdicts,
        made.scores,
        netuid=26,
        block=7,
        validator_hotkey=keypair.ss58_address if keypair else "validator",
        signer=keypair,
    )


def seal(corpus: Corpus, day: date = TODAY, **options: Any) -> SealResult:
    """Seal a day in shards of 20 kB, days after its end; `options` are those of `seal_day`."""
    chosen: dict[str, Any] = {
        "settings": SealSettings(shard_bytes=20_000, grace_minutes=30),
        "now": lambda: LATER,
    }
    return seal_day(corpus, day, **(chosen | options))


def whats(report: AuditReport) -> str:
    """The faults of an audit, one a line."""
    return "\n".join(f"{fault.where}: {fault.what}" for fault in report.faults)


def make_clean_corpora(root: Path, keypair: Signer) -> Path:
    """The same two signed rounds as live rounds in `root/rounds` and as a sealed day in `root/sealed`."""
    for name in ("rounds", "sealed"):
        corpus = Corpus(open_store(str(root / name)))
        for seed in (1, 2):
            commit(corpus, small(seed, validator=keypair.ss58_address), keypair)
        if name == "sealed":
            seal(corpus, signer=keypair)
            collect_garbage(corpus, grace=NO_GRACE, keep_superseded=NO_GRACE)
        assert audit(corpus).holds
    return root
