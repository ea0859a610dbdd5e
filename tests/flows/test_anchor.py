"""Which day's root a seal puts on chain."""

from datetime import date
from pathlib import Path

import pytest

from perturb.flows import seal as flow
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from tests.support.corpora import make_corpus


def test_the_newest_day_is_anchored_again_and_older_ones_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    days = [date(2026, 1, 5), date(2026, 1, 6)]
    make_corpus(open_store(str(tmp_path)), days=days, rounds=1, miners=2)
    sent: list[str] = []
    monkeypatch.setattr(flow, "_anchor", lambda root: sent.append(root) or "0x1")

    def sealed_already(day: date, *_: object) -> flow.SealSummary:
        manifest = Corpus(open_store(str(tmp_path))).manifest(day)
        assert manifest is not None
        counts = dict.fromkeys(("rounds", "records", "images", "duplicates", "reverified", "bytes"), 1)
        return flow.SealSummary(day=day, already=True, merkle_root=manifest.merkle_root, **counts)

    monkeypatch.setattr(flow, "_seal", sealed_already)
    older, newest = (flow.seal.fn(day=day, store=str(tmp_path)) for day in days)
    assert older.extrinsic is None
    assert newest.extrinsic == "0x1"
    assert sent == [newest.merkle_root]
