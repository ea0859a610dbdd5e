"""What runs on a schedule makes as many requests on a service for a corpus of 300 days as for one of 10."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path

import pytest

from perturb.certificates.contract import last_certified
from perturb.schemas.neuron import Neuron
from perturb.schemas.settings import JudgeSettings, S3Settings, SealSettings, Settings, SubnetSettings, load_settings
from perturb.schemas.trust import Trust
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.dataset.contents import ExportContents, read_contents, write_contents
from perturb.sinks.dataset.day_index import DayIndex, Statistics
from perturb.sinks.dataset.keys import CARD, CROISSANT, format_folder, index_key, tier_folder
from perturb.sinks.log.log import Log
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.audit_onward import AuditProgress, audit_onward, progress_file
from perturb.tasks.corpus.commit import commit_round
from perturb.tasks.corpus.gc import collect_garbage
from perturb.tasks.corpus.prove import prove
from perturb.tasks.corpus.remember import remember_committed
from perturb.tasks.corpus.seal import seal_day
from perturb.tasks.export.export import export
from perturb.tasks.export.hub import publish
from perturb.tasks.export.share import share
from perturb.tasks.monitor.cost import estimate_cost
from perturb.tasks.monitor.doctor import check_all
from perturb.tasks.monitor.status import read_status
from perturb.tasks.tiers.tier_file import load_tiers
from perturb.tasks.weights.emission import plan_weights
from perturb.tasks.weights.own_records import OwnHistory
from tests.support.commands import ROOT
from tests.support.fake_s3 import FakeS3, fake_s3
from tests.support.old_corpus import VALIDATOR, age, hotkeys
from tests.support.synthetic import make_round

LAST = date(2026, 3, 1)
TODAY = LAST + timedelta(days=1)
NOW = datetime.combine(TODAY, clock_time(12), UTC)
TRUST = Trust(frozenset({VALIDATOR.ss58_address}))
TIERS = load_tiers(ROOT / "tiers.toml")
MINERS, ROUNDS = 2, 2


@dataclass
class Old:
    """A corpus on a service, exported but for its newest day, with a round of today; and its newest record's ID."""

    service: FakeS3
    settings: Settings
    newest: str
    oldest: str

    def corpus(self) -> Corpus:
        """The corpus, of which nothing was read yet."""
        return Corpus.open(self.settings)


@contextmanager
def old(days: int, folder: Path) -> Iterator[Old]:
    """Make the corpus in a directory and put its objects into a service."""
    local = open_store(str(folder / "local"))
    made = list(age(local, days=days, rounds=ROUNDS, miners=MINERS, last=LAST))
    for tier in ("enterprise", "sample"):
        indexes = [
            DayIndex(tier=tier, day=one.day, records=0, merkle_root=one.merkle_root, files=(), statistics=Statistics())
            for one in made[:-1]
        ]
        for index in indexes:
            local.put_new(index_key(tier, index.day), index.to_json())
        write_contents(local, ExportContents(tier=tier).plus(indexes))
    round_ = make_round(1, miners=MINERS, created_at=NOW, side=16, validator=VALIDATOR.ss58_address)
    parts = (round_.challenge, round_.responses, round_.verdicts, round_.scores)
    hotkey = VALIDATOR.ss58_address
    commit_round(Corpus(local), *parts, netuid=26, block=None, validator_hotkey=hotkey, signer=VALIDATOR)
    with pytest.MonkeyPatch.context() as patch, fake_s3() as service:
        patch.setenv("AWS_ACCESS_KEY_ID", "x")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        root = folder / "local"
        for path in root.rglob("*"):
            if path.is_file():
                place = f"bucket/{path.relative_to(root)}"
                service.objects[place] = (path.read_bytes(), {}, path.stat().st_mtime)
        settings = load_settings(
            store="s3://bucket",
            tiers=ROOT / "tiers.toml",
            cache_dir=folder / "cache",
            judge=JudgeSettings(name="none"),
            subnet=SubnetSettings(hotkey_uri="//PerturbValidator"),
            s3=S3Settings(endpoint_url=service.endpoint, region="us-east-1", addressing_style="path"),
        )
        yield Old(service, settings, made[-1].some_record, made[0].some_record)


def weigh(old: Old) -> None:
    neurons = [Neuron(uid=uid, hotkey=key, endpoint="8.8.8.8:80") for uid, key in enumerate(hotkeys(MINERS))]
    history = OwnHistory(old.corpus(), TRUST, cache=old.settings.cache / f"{id(old)}")
    plan = plan_weights(history, neurons, netuid=26, window=2 * ROUNDS, min_processed=0)
    assert len(plan.weights) == MINERS


def seal(old: Old) -> None:
    settings = SealSettings(reverify_fraction=0)
    sealed = seal_day(old.corpus(), TODAY, settings=settings, signer=VALIDATOR, trust=TRUST, early=True)
    assert sealed.manifest.rounds == 1


def audit_newest_day(old: Old) -> None:
    log = Log(old.corpus().store)
    before = log.newest_before(log.newest(), "sealed-day")
    assert before is not None
    before = log.record(before.entry.sequence - 1)
    path = progress_file(old.settings, TRUST, sample=0.0, deep=False)
    path.parent.mkdir(exist_ok=True)
    path.write_text(AuditProgress(entries=before.head.size, root=before.head.root).model_dump_json())
    old.service.requests.clear()
    report = audit_onward(old.settings, sample=0.0, deep=False, hotkeys=[VALIDATOR.ss58_address])
    assert (report.days, report.rounds, report.reached) == (1, 1, before.head.size + 1)


class Hub:
    """`huggingface_hub.HfApi`, as far as `publish` calls it: the repository has the indexes of all days but one."""

    def __init__(self, there: list[str]) -> None:
        self.there = there

    def create_repo(self, repo: str, **_: object) -> None:
        pass

    def list_repo_files(self, repo: str, **_: object) -> list[str]:
        return self.there

    def create_commit(self, repo: str, **_: object) -> None:
        pass


def publish_newest(old: Old) -> None:
    store = old.corpus().store
    days = sorted(read_contents(store, "enterprise").days)
    folder, card = tier_folder("enterprise"), format_folder("enterprise", "parquet") + CARD
    store.put(card, f"config_name: default, version: 1.{len(days)}.0,".encode())
    store.put(format_folder("enterprise", "parquet") + CROISSANT, b"{}")
    there = [index_key("enterprise", day).removeprefix(folder) for day in days[:-1]]
    old.service.requests.clear()
    sent = publish(store, "enterprise", repo="org/x", api=Hub(there), trust=TRUST).sent  # type: ignore[arg-type]
    newest = index_key("enterprise", days[-1]).removeprefix(folder)
    assert set(sent) == {newest, CARD, CROISSANT}


def ask_doctor(old: Old) -> None:
    found = {check.part: check for check in check_all(old.settings)}
    assert found["store"].ready
    assert found["targets"].finding.startswith("no line-up")


def ask_for_a_certificate(old: Old) -> None:
    since, signer = NOW - timedelta(days=7), VALIDATOR.ss58_address
    log = Log(old.corpus().store, trust=TRUST)
    assert last_certified(log, "0" * 64, signer=signer, since=since) is None


STEPS: dict[str, Callable[[Old], object]] = {
    "status": lambda old: read_status(old.corpus(), old.settings, now=NOW, trust=TRUST),
    "weights": weigh,
    "gc": lambda old: collect_garbage(old.corpus(), keep_answers=timedelta(days=90), dry_run=True, trust=TRUST),
    "cost": lambda old: estimate_cost(old.corpus(), old.settings, now=NOW),
    "plan": lambda old: export(old.corpus(), TIERS["enterprise"], today=TODAY, dry_run=True, trust=TRUST),
    "plan of a delayed tier": lambda old: export(old.corpus(), TIERS["sample"], today=TODAY, dry_run=True, trust=TRUST),
    "share": lambda old: share(old.corpus().store, "enterprise", trust=TRUST),
    "produce": lambda old: remember_committed(old.corpus(), days=5, now=NOW),
    "place of a round": lambda old: old.corpus().place_round("20260302T120000000000Z-00000000", NOW),
    "certify": ask_for_a_certificate,
    "audit": audit_newest_day,
    "doctor": ask_doctor,
    "publish": publish_newest,
    # Last, as it adds a day.
    "seal": seal,
}
PROOFS: dict[str, Callable[[Old], object]] = {
    "prove the oldest": lambda old: prove(old.corpus(), old.oldest, trust=TRUST),
    "prove the newest": lambda old: prove(old.corpus(), old.newest, trust=TRUST),
}


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, tuple[int, int]]]:
    """The requests of each step, and the entries that its listings had, by the age of the corpus."""
    found: dict[str, dict[int, tuple[int, int]]] = {name: {} for name in STEPS | PROOFS}
    for days in (10, 300):
        with old(days, tmp_path_factory.mktemp(f"days-{days}")) as made:
            for name, step in (PROOFS | STEPS).items():
                made.service.requests.clear()
                made.service.listed = 0
                step(made)
                found[name][days] = (len(made.service.requests), made.service.listed)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_an_old_corpus_takes_no_more_requests(step: str, counts: dict[str, dict[int, tuple[int, int]]]) -> None:
    young, aged = counts[step][10], counts[step][300]
    assert aged[0] <= young[0], f"{step}: {young[0]} requests at 10 days, {aged[0]} at 300"
    assert aged[1] <= young[1], f"{step}: {young[1]} entries listed at 10 days, {aged[1]} at 300"
    assert 0 < aged[0] < 150


@pytest.mark.slow
def test_a_record_of_any_day_is_found_by_few_requests(counts: dict[str, dict[int, tuple[int, int]]]) -> None:
    """The log is searched by halves: an entry more for twice as many days."""
    for step in ("prove the oldest", "prove the newest"):
        young, aged = counts[step][10], counts[step][300]
        assert aged[0] <= young[0] + 12
        assert aged[1] <= young[1]
