"""Tampering: one thing is changed, and the audit names it."""

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import CorpusError
from perturb.schemas.pair import Pair
from perturb.schemas.signature import Signer
from perturb.schemas.trust import Trust
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.formats.parquet import KEY
from perturb.sinks.formats.version import FORMAT
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.audit import audit
from tests.support.small_corpora import commit, seal, small, whats


def _rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    table = pq.read_table(path)
    pq.write_table(change(table), path)


def _set(column: str, value: object, row: int = 0) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table.column(column).to_pylist()
        values[row] = value
        field = table.schema.field(column)
        return table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))

    return change


def _flip_byte(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def _first(root: Path, pattern: str) -> Path:
    return sorted(root.rglob(pattern))[0]


def _swap_images(root: Path) -> None:
    """Put another valid image of the same size in the tar in the place of the first."""
    path = _first(root, "perturbed*.tar")
    with tarfile.open(path) as tar:
        place, other = tar.getmembers()[:2]
        image = tar.extractfile(other).read()[: place.size]  # type: ignore[union-attr]
    data = bytearray(path.read_bytes())
    data[place.offset_data : place.offset_data + len(image)] = image
    path.write_bytes(data)


def _cut_tar(root: Path) -> None:
    path = _first(root, "perturbed*.tar")
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    path.write_bytes(data[: last.offset] + bytes(1024))


def _change_statement(root: Path) -> None:
    path = _first(root, "metadata*.parquet")
    table = pq.read_table(path)
    statement = json.loads(table.schema.metadata[KEY])
    if "signature" in statement:
        statement["signature"] = "00" * 64
        pq.write_table(table.replace_schema_metadata({KEY: canonical_json(statement)}), path)
        return
    manifest = root / "sealed/date=2026-01-31/manifest.json"
    manifest.write_bytes(canonical_json(json.loads(manifest.read_text()) | {"signature": "00" * 64}))


TAMPERING = {
    "a byte of a perturbed image": (lambda root: _flip_byte(_first(root, "perturbed*.tar"), 700), "sha256"),
    "a byte of an original image": (lambda root: _flip_byte(_first(root, "original*.tar"), 700), "PNG|pixels"),
    "a byte of a tar header": (lambda root: _flip_byte(_first(root, "perturbed*.tar"), 3), "another member"),
    "a byte of padding": (lambda root: _flip_byte(_first(root, "perturbed*.tar"), -1), "after its last image|sha256"),
    "a swapped image": (_swap_images, "sha256"),
    "a metric": (lambda root: _rewrite(_first(root, "metadata*"), _set("ssim", 0.999)), "Merkle root"),
    "a label": (lambda root: _rewrite(_first(root, "metadata*"), _set("adversarial_label", 7)), "Merkle root"),
    "a score": (lambda root: _rewrite(_first(root, "metadata*"), _set("score", 1.0)), "Merkle root"),
    "a pointer": (lambda root: _rewrite(_first(root, "metadata*"), _set("original_offset", 1024)), "byte 1024|places"),
    "a pointer that is none": (lambda root: _rewrite(_first(root, "metadata*"), _set("original_offset", None)), "None"),
    "a pointer to more than a tar holds": (
        lambda root: _rewrite(_first(root, "metadata*"), _set("original_length", 2**62)),
        "cannot be an image|places",
    ),
    "one row less": (lambda root: _rewrite(_first(root, "metadata*"), lambda table: table.slice(1)), "rows"),
    "one row twice": (
        lambda root: _rewrite(_first(root, "metadata*"), lambda table: pa.concat_tables([table, table.slice(0, 1)])),
        "rows|twice",
    ),
    "a row that is no record": (lambda root: _rewrite(_first(root, "metadata*"), _set("height", None)), "height"),
    "bytes in the middle of the Parquet": (
        lambda root: [_flip_byte(_first(root, "metadata*"), place) for place in range(400, 600)],
        ".",
    ),
    "a tar cut at a member boundary": (_cut_tar, "bytes"),
    "a tar gone": (lambda root: _first(root, "perturbed*.tar").unlink(), "missing"),
    "a signature": (_change_statement, "signature"),
}


@pytest.mark.parametrize("state", ["rounds", "sealed"])
@pytest.mark.parametrize("what", TAMPERING)
def test_tampering_is_named(clean_corpora: Path, tmp_path: Path, state: str, what: str) -> None:
    root = tmp_path / state
    shutil.copytree(clean_corpora / state, root)
    tamper, named = TAMPERING[what]
    tamper(root)
    report = audit(Corpus(open_store(str(root))))
    assert not report.holds
    assert re.search(named, whats(report)), whats(report)


@pytest.mark.parametrize("sealed", [False, True])
def test_an_answer_without_its_miners_signature_is_named(tmp_path: Path, keypair: Signer, sealed: bool) -> None:
    """What a validator that forges answers would write: its own signature, Merkle root and digests all hold."""
    made = small(1, validator=keypair.ss58_address)
    first, second, third, _ = made.responses
    made.responses[0] = replace(first, signature=None)
    made.responses[1] = replace(second, signature=third.signature)
    corpus = Corpus(open_store(str(tmp_path)))
    commit(corpus, made, keypair)
    if sealed:
        seal(corpus, signer=keypair)
    faults = sorted(fault.what for fault in audit(corpus).faults)
    assert faults == [
        f"the miner's signature is not that of {second.miner_hotkey} over this response",
        "the record is accepted without its miner's signature",
    ]


@pytest.mark.parametrize("sealed", [False, True])
def test_a_refused_answer_that_was_paid_is_named(tmp_path: Path, sealed: bool) -> None:
    made = small(1)
    made.scores[-1] = made.scores[-1].model_copy(update={"score": 0.9})
    corpus = Corpus(open_store(str(tmp_path)))
    commit(corpus, made)
    if sealed:
        seal(corpus)
    assert [fault.what for fault in audit(corpus).faults] == ["the record is no_flip, but has a score of 0.9"]


def test_a_deep_audit_names_figures_of_refused_answers_that_make_no_sense(tmp_path: Path) -> None:
    made = small(1)
    made.verdicts[-1] = made.verdicts[-1].model_copy(update={"rmse": -1.0, "l0_pixels": 5})
    corpus = Corpus(open_store(str(tmp_path)))
    commit(corpus, made)

    def nothing_to_say(samples: Sequence[Pair]) -> list[str | None]:
        return [None] * len(samples)

    faults = [fault for fault in audit(corpus, reverify=nothing_to_say).faults if "no_flip" not in fault.what]
    assert faults
    assert all(made.challenge.round_id in fault.where for fault in faults)
    assert any("psnr" in fault.what or "ValueError" in fault.what for fault in faults)


def test_a_sealed_day_that_was_taken_out_is_named(clean_corpora: Path, tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    shutil.copytree(clean_corpora / "sealed", root)
    (root / "sealed/date=2026-01-31/manifest.json").unlink()
    assert "its manifest is missing" in whats(audit(Corpus(open_store(str(root)))))
    shutil.copytree(clean_corpora / "sealed", root, dirs_exist_ok=True)
    shutil.rmtree(root / "log")
    assert "has no entry of this day" in whats(audit(Corpus(open_store(str(root)))))


def test_another_hotkey_does_not_do(clean_corpora: Path) -> None:
    report = audit(Corpus(open_store(str(clean_corpora / "sealed"))), trust=Trust(frozenset({"5Somebody"})))
    assert "not by 5Somebody" in whats(report)


def test_a_newer_format_is_refused_by_name(clean_corpora: Path, tmp_path: Path) -> None:
    shutil.copytree(clean_corpora / "sealed", tmp_path / "new")
    manifest = tmp_path / "new/sealed/date=2026-01-31/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": FORMAT + 1}))
    corpus = Corpus(open_store(str(tmp_path / "new")))
    with pytest.raises(
        CorpusError, match=rf"manifest\.json has format version {FORMAT + 1}, this program reads up to {FORMAT}"
    ):
        corpus.table()
    assert f"format version {FORMAT + 1}" in whats(audit(corpus))
