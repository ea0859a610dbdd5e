"""Records are proven from their references alone, and what is not there is a fault of the record, not an error."""

from datetime import date
from pathlib import Path
from typing import NamedTuple

import pytest

from perturb.schemas.errors import CorpusError
from perturb.schemas.image import encode_png
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.commit import commit_records
from perturb.tasks.verify.reverify_by_reference import RecordRef, reverify_references
from tests.support.judged_records import records
from tests.support.verification_rounds import SETTINGS, challenge, classifier, clean, flipped, thinned


class Written(NamedTuple):
    """A corpus with one round: two accepted answers, then a refused one."""

    root: Path
    corpus: Corpus
    references: list[RecordRef]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    asked = challenge()
    bodies = [encode_png(flipped()), encode_png(thinned(flipped(), 0.9)), encode_png(clean())]
    made = records(asked, bodies)
    assert [record.outcome for record in made] == ["accepted", "accepted", "unchanged"]
    corpus = Corpus(open_store(str(tmp_path)))
    images = {record.record_id: body for record, body in zip(made, bodies, strict=True) if record.score}
    draft = commit_records(corpus, made, asked.png, images)
    return Written(tmp_path, corpus, [RecordRef(draft.day, draft.round_id, record.record_id) for record in made])


def faults(corpus: Corpus, references: list[RecordRef]) -> list[str | None]:
    return reverify_references(corpus, references, classifier=classifier(), settings=SETTINGS)


def test_a_reference_is_made_from_a_row_and_read_back(written: Written) -> None:
    (stored,) = [written.corpus.read_round(ref) for ref in written.corpus.live_rounds()]
    accepted = [row for row in stored.rows if row["outcome"] == "accepted"]
    assert {RecordRef.of(row) for row in accepted} == set(written.references[:2])
    assert faults(written.corpus, written.references[:2]) == [None, None]
    for shard in (None, "sealed/date=2026-01-31/0/perturbed.tar", "rounds/today/round/perturbed.tar", "rounds"):
        with pytest.raises(CorpusError, match=r"accepted: a shard in rounds/date=.*/round/"):
            RecordRef.of(accepted[0] | {"perturbed_shard": shard})


def test_images_are_read_once_for_all_records(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    get_ranges = written.corpus.store.get_ranges

    def counted(key: str, ranges: list[tuple[int, int]]) -> list[bytes]:
        read.append((key.rpartition("/")[2], len(ranges)))
        return get_ranges(key, ranges)

    monkeypatch.setattr(written.corpus.store, "get_ranges", counted)
    assert faults(written.corpus, written.references[:2] * 2) == [None] * 4
    assert sorted(read) == [("original.tar", 1), ("perturbed.tar", 2)]


def test_what_is_not_there_is_a_fault_of_its_record(written: Written) -> None:
    sound, _, refused = written.references
    missing = RecordRef(sound.day, sound.round_id, "f" * 32)
    elsewhere = RecordRef(date(2020, 1, 1), sound.round_id, sound.record_id)
    found = faults(written.corpus, [missing, sound, refused, elsewhere, sound])
    assert found[1] is None
    assert found[4] is None
    assert found[0] == f"round round ({sound.day}) has no record {'f' * 32}"
    assert found[2] == ("no image to verify again: perturbed_shard, perturbed_offset, perturbed_length null")
    assert "its round can't be read" in (found[3] or "")
    assert "date=2020-01-01" in (found[3] or "")


def test_a_cut_shard_names_the_records_that_it_costs(written: Written) -> None:
    (shard,) = written.root.glob("rounds/*/*/perturbed.tar")
    (stored,) = [written.corpus.read_round(ref) for ref in written.corpus.live_rounds()]
    first, second = sorted(
        (row for row in stored.rows if row["outcome"] == "accepted"), key=lambda row: row["perturbed_offset"]
    )
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[: second["perturbed_offset"] + 5])
    whole, cut = faults(written.corpus, [RecordRef.of(first), RecordRef.of(second)])
    assert whole is None
    assert "an image can't be read" in (cut or "")
    shard.unlink()
    assert all("an image can't be read" in (fault or "") for fault in faults(written.corpus, written.references[:2]))
