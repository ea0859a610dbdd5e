"""Sealing a day: what is taken in, what is refused, and sealers that end in the middle."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from perturb.schemas.errors import CorpusError
from perturb.schemas.settings import SealSettings
from perturb.schemas.signature import Signer
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.log.entry import NewEntry
from perturb.sinks.log.log import Log
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.gc import collect_garbage
from tests.support.small_corpora import NO_GRACE, TODAY, commit, seal, small, whats
from tests.support.synthetic import DAY, SyntheticRound


def test_a_late_round_is_in_the_next_sealed_day(corpus: Corpus) -> None:
    commit(corpus, small(1))
    late = small(2)
    real = corpus.open_day
    corpus.open_day = lambda now, trust: TODAY  # type: ignore[method-assign]
    listed = corpus.live_rounds

    def list_then_commit(**options: object):  # type: ignore[no-untyped-def]
        rounds = listed(**options)  # type: ignore[arg-type]
        commit(corpus, late)
        return rounds

    corpus.live_rounds = list_then_commit  # type: ignore[method-assign]
    assert seal(corpus).manifest.records == 4, "committed after the sealer looked"
    corpus.live_rounds = listed  # type: ignore[method-assign]
    corpus.open_day = real  # type: ignore[method-assign]
    assert [ref.round_id for ref in corpus.live_rounds()] == [late.challenge.round_id]
    assert audit(corpus).records == 8

    commit(corpus, small(3, created_at=DAY + timedelta(days=1)))
    assert seal(corpus, TODAY + timedelta(days=1)).manifest.records == 8
    assert audit(corpus).holds
    assert corpus.table().num_rows == 12


def test_days_that_cannot_be_sealed(corpus: Corpus) -> None:
    with pytest.raises(CorpusError, match="no rounds to seal for 2026-01-31"):
        seal(corpus)
    commit(corpus, small(1))
    with pytest.raises(CorpusError, match="no rounds to seal for 2026-01-30; --day 2026-01-31 has some"):
        seal(corpus, TODAY - timedelta(days=1))
    almost = datetime(2026, 2, 1, 0, 29, tzinfo=UTC)
    with pytest.raises(CorpusError, match="open until 2026-02-01 00:30 UTC"):
        seal(corpus, now=lambda: almost)
    assert not list(corpus.store.entries("sealed/")), "nothing half-written"
    assert seal(corpus, now=lambda: almost, early=True).manifest.records == 4
    assert commit(corpus, small(2)).day == TODAY + timedelta(days=1)


def test_pixels_that_the_day_has_already_become_a_duplicate_row(corpus: Corpus) -> None:
    first = small(1)
    commit(corpus, first)
    again = small(1, miners=3, created_at=DAY + timedelta(minutes=1))
    task = again.challenge.task.model_copy(update={"task_salt": "f" * 32}).as_task()
    challenge = replace(again.challenge, task=task)
    commit(corpus, SyntheticRound(challenge, again.responses, again.verdicts, again.scores))
    manifest = seal(corpus).manifest
    assert (manifest.images, manifest.originals, manifest.duplicates) == (3, 1, 3)
    assert manifest.outcomes == {"accepted": 3, "duplicate": 3, "no_flip": 2}
    rows = corpus.table().to_pylist()
    ids = {row["record_id"] for row in rows if row["outcome"] == "accepted"}
    assert {row["duplicate_of"] for row in rows if row["outcome"] == "duplicate"} == ids
    report = audit(corpus)
    assert report.holds, whats(report)


def test_sealing_refuses_what_does_not_verify(corpus: Corpus) -> None:
    commit(corpus, small(1))
    settings = SealSettings(reverify_fraction=1)
    with pytest.raises(CorpusError, match="does not verify again: no flip"):
        seal(corpus, settings=settings, reverify=lambda samples: ["no flip" for _ in samples])
    assert corpus.sealed_days() == []
    assert corpus.store.unfinished() == []
    asked = []

    def agree(samples):  # type: ignore[no-untyped-def]
        asked.extend(samples)
        return [None] * len(samples)

    assert seal(corpus, settings=settings, reverify=agree).manifest.reverified.records == 3
    made = small(1)
    assert {sample.perturbed for sample in asked} == {response.body for response in made.responses[:3]}
    assert {sample.original for sample in asked} == {made.challenge.png}
    deep = audit(corpus, reverify=lambda samples: ["no flip"] * len(samples))
    assert deep.reverified == 3
    assert "no flip" in whats(deep)


def test_a_sealer_that_dies_before_the_manifest_is_finished_by_the_next(corpus: Corpus) -> None:
    commit(corpus, small(1))
    put_new = corpus.store.put_new

    def die(key: str, data: bytes) -> bool:
        if key == f"sealed/date={TODAY}/manifest.json":
            raise KeyboardInterrupt
        return put_new(key, data)

    corpus.store.put_new = die  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        seal(corpus)
    corpus.store.put_new = put_new  # type: ignore[method-assign]
    assert corpus.sealed_days() == []
    # What others enter meanwhile changes nothing about that.
    plan = NewEntry(kind="plan", key="plans/1.json", sha256="0" * 64)
    Log(corpus.store).append(plan, signer=None, at=DAY)
    report = audit(corpus)
    assert report.holds, whats(report)
    assert not collect_garbage(corpus, grace=NO_GRACE, dry_run=True).orphans, "the log claims the files already"
    commit(corpus, small(2, created_at=DAY + timedelta(days=1)))
    seal(corpus, TODAY + timedelta(days=1))
    sealed = [record.entry for record in Log(corpus.store).records() if record.entry.kind == "sealed-day"]
    assert [entry.detail["day"] for entry in sealed] == ["2026-01-31", "2026-02-01"]
    assert corpus.sealed_days() == [TODAY, TODAY + timedelta(days=1)]
    report = audit(corpus)
    assert report.holds, whats(report)
    assert report.records == 8


def test_a_sealer_whose_files_were_collected_meanwhile_seals_nothing(corpus: Corpus, keypair: Signer) -> None:
    """A sealer that is suspended for days before it claims its files finds them collected as garbage."""
    commit(corpus, small(1, validator=keypair.ss58_address), keypair)

    class SuspendedWhileSigning:
        ss58_address = keypair.ss58_address

        def sign(self, data: bytes, /) -> bytes:
            collected = collect_garbage(Corpus(corpus.store), grace=NO_GRACE)
            assert len(collected.orphans) == 7
            return keypair.sign(data)

    with pytest.raises(CorpusError, match="was deleted before 2026-01-31 was sealed"):
        seal(corpus, signer=SuspendedWhileSigning())
    assert Log(corpus.store).newest() is None
    assert corpus.sealed_days() == []
    assert seal(corpus, signer=keypair).manifest.records == 4
    assert audit(corpus).holds
