"""Staged answers come back as they were, any bytes and any text; a changed byte is refused; leftovers are garbage."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturb.schemas.challenge import Challenge, Origin
from perturb.schemas.errors import CorpusError
from perturb.schemas.response import Response
from perturb.schemas.settings import ClassifierSettings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.staging import Slice, read_staged, stage
from perturb.sinks.stores.base import ObjectCorrupt
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.gc import collect_garbage
from tests.support.tasks import make_task

RESPONSES = st.builds(
    Response,
    miner_uid=st.integers(0, 2**16),
    miner_hotkey=st.text(),
    response_ms=st.floats(0, 1e9),
    body=st.binary(max_size=200),
    body_sha256=st.none() | st.text(),
    nonce=st.none() | st.text(),
    signature=st.none() | st.text(),
    failure=st.none() | st.text(),
    detail=st.none() | st.text(),
)


def challenge(png: bytes = b"\x89PNG \x00\xff") -> Challenge:
    task = make_task(height=4, width=4)
    origin = Origin(source="test", source_id="é", clean_confidence=0.1 + 0.2, clean_margin=1 / 3, judge="none")
    return Challenge("round-1", datetime(2026, 1, 5, 12, 0, 0, 123, tzinfo=UTC), task, origin, png)


@settings(deadline=None)
@given(st.lists(RESPONSES, max_size=4).map(tuple), st.binary())
def test_what_is_staged_is_what_is_read(responses: tuple[Response, ...], png: bytes) -> None:
    part = Slice(challenge(png), responses, ClassifierSettings(transfer=("a", "b"), margin_tolerance=0.1))
    with TemporaryDirectory() as folder:
        store = open_store(folder)
        key, digest = stage(store, part, number=3)
        assert stage(store, part, number=3) == (key, digest)
        assert read_staged(store, key, sha256=digest) == part


def test_other_bytes_are_refused_and_leftovers_are_garbage(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    part = Slice(challenge(), (Response(1, "miner", 5.0, b"body"),), ClassifierSettings())
    key, _ = stage(store, part, number=0)
    with pytest.raises(CorpusError, match="other bytes"):
        stage(store, Slice(challenge(), (), ClassifierSettings()), number=0)
    with pytest.raises(ObjectCorrupt):
        read_staged(store, key, sha256="0" * 64)

    assert not collect_garbage(Corpus(store)).removed
    later = datetime.now(UTC) + timedelta(days=2)
    assert [entry.key for entry in collect_garbage(Corpus(store), now=later).orphans] == [key]
    assert store.head(key) is None
