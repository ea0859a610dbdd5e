"""Committing a round: the same bytes for the same round, once, whatever the clock and the sealer do."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from perturb.schemas.errors import CorpusError
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.gc import collect_garbage
from tests.support.small_corpora import NO_GRACE, TODAY, commit, seal, small
from tests.support.synthetic import DAY


def test_the_same_round_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        commit(Corpus(open_store(str(tmp_path / name))), small(3))
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 3
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_a_retry_after_its_day_was_sealed_is_not_a_second_round(corpus: Corpus) -> None:
    commit(corpus, small(1))
    seal(corpus)
    assert commit(corpus, small(1)).day == TODAY
    assert corpus.live_rounds() == []
    collect_garbage(corpus, grace=NO_GRACE, keep_superseded=NO_GRACE)
    assert commit(corpus, small(1)).day == TODAY
    assert corpus.table().num_rows == 4


def test_a_clock_that_runs_backwards_over_midnight(corpus: Corpus) -> None:
    commit(corpus, small(1))
    seal(corpus)
    summary = commit(corpus, small(2, created_at=DAY - timedelta(hours=13)))
    assert summary.day == TODAY + timedelta(days=1)
    assert audit(corpus).records == 8
    with pytest.raises(CorpusError, match="cannot be sealed after 2026-01-31"):
        seal(corpus, TODAY - timedelta(days=1))


def test_rounds_that_are_inconsistent_are_not_written(corpus: Corpus) -> None:
    made = small(1)
    made.responses[0] = replace(made.responses[0], body=b"other")
    with pytest.raises(CorpusError, match="does not have the stated digest"):
        commit(corpus, made)
    assert not list(corpus.store.entries())
