"""Garbage collection removes what no commit claims, and nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from perturb.schemas.errors import CorpusError
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.base import Entry
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.gc import collect_garbage
from tests.support.small_corpora import NO_GRACE, commit, seal, small, whats


def test_garbage_is_what_nobody_claims(corpus: Corpus, tmp_path: Path) -> None:
    commit(corpus, small(1))
    store = corpus.store
    store.put_new("rounds/date=2026-01-31/half/original.tar", b"orphan")
    store.put_new("sealed/date=2026-01-31/0123456789abcdef/original-00000.tar", b"orphan")
    store.put_new("exports/sample/README.md", b"not mine")
    left = tmp_path / "corpus" / ".unfinished" / "1-a"
    left.write_bytes(b"half")
    assert collect_garbage(corpus).removed == [], "young things may be somebody's work"
    planned = collect_garbage(corpus, grace=NO_GRACE, dry_run=True)
    assert {entry.key for entry in planned.removed} == {
        "rounds/date=2026-01-31/half/original.tar",
        "sealed/date=2026-01-31/0123456789abcdef/original-00000.tar",
        "1-a",
    }
    assert store.head("rounds/date=2026-01-31/half/original.tar")
    assert collect_garbage(corpus, grace=NO_GRACE).removed == planned.removed
    assert collect_garbage(corpus, grace=NO_GRACE).removed == []
    assert audit(corpus).holds
    seal(corpus)
    broken = next(entry for entry in corpus.store.entries("sealed/date=2026-01-31/") if entry.key.endswith(".tar"))
    store.delete(broken.key)
    with pytest.raises(CorpusError, match="rounds are kept"):
        collect_garbage(corpus, grace=NO_GRACE, keep_superseded=NO_GRACE)
    assert len(list(store.entries("rounds/"))) == 3


def test_a_commit_that_a_stale_listing_hides_is_not_garbage(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some services list an object only some time after it was written."""
    commit(corpus, small(1))
    listed = corpus.store.entries

    def without_commits(prefix: str = "", *, after: str = "") -> Iterator[Entry]:
        return (entry for entry in listed(prefix, after=after) if not entry.key.endswith("/metadata.parquet"))

    monkeypatch.setattr(corpus.store, "entries", without_commits)
    assert collect_garbage(corpus, grace=NO_GRACE).removed == []
    monkeypatch.undo()
    report = audit(corpus)
    assert report.holds, whats(report)
    assert report.records == 4
