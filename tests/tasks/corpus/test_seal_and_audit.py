"""A corpus through its life: rounds, sealed days, audit, proof, garbage; and what tampering is named."""

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perturb.schemas.errors import CorpusError
from perturb.schemas.pair import Pair
from perturb.schemas.settings import SealSettings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.formats.parquet import KEY
from perturb.sinks.stores.base import Store
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.audit import AuditReport, audit
from perturb.tasks.corpus.commit import RoundSummary, commit_round
from perturb.tasks.corpus.gc import collect_garbage
from perturb.tasks.corpus.prove import check_proof, parse_proof, prove
from perturb.tasks.corpus.seal import SealResult, seal_day
from tests.support.synthetic import DAY, SyntheticRound, make_round

TODAY = DAY.date()
LATER = datetime(2026, 2, 3, tzinfo=UTC)
NEVER = timedelta(0)


@pytest.fixture(scope="module")
def keypair():  # type: ignore[no-untyped-def]
    from bittensor.keyfiles import Keypair

    return Keypair.create_from_uri("//PerturbValidator")


def commit(corpus: Corpus, made: SyntheticRound, keypair=None) -> RoundSummary:  # type: ignore[no-untyped-def]
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


def seal(corpus: Corpus, day: date = TODAY, **options: object) -> SealResult:
    chosen = SealSettings(shard_bytes=20_000, grace_minutes=30)
    return seal_day(corpus, day, **({"settings": chosen, "now": lambda: LATER} | options))  # type: ignore[arg-type]


def small(seed: int, **options: object) -> SyntheticRound:
    return make_round(seed, **({"side": 32, "miners": 3} | options))  # type: ignore[arg-type]


def whats(report: AuditReport) -> str:
    return "\n".join(f"{fault.where}: {fault.what}" for fault in report.faults)


def test_a_corpus_lives_on_every_store(make_store: Callable[[], Store], keypair) -> None:  # type: ignore[no-untyped-def]
    corpus = Corpus(make_store())
    rounds = [small(seed, validator=keypair.ss58_address) for seed in range(4)]
    summaries = [commit(corpus, made, keypair) for made in rounds]
    assert commit(corpus, rounds[0], keypair).merkle_root == summaries[0].merkle_root, "a retry changes nothing"
    assert len(corpus.live_rounds()) == 4
    before = corpus.table().sort_by("record_id")
    assert before.num_rows == 16

    sealed = seal(corpus, signer=keypair)
    assert (sealed.manifest.records, sealed.manifest.images, sealed.manifest.originals) == (16, 12, 4)
    assert len(sealed.manifest.file("perturbed")) > 1, "shards roll over near the target size"
    assert corpus.live_rounds() == []
    fresh = Corpus(make_store())
    after = fresh.table().sort_by("record_id")
    kept = [name for name in before.column_names if "shard" not in name and "offset" not in name]
    assert after.select(kept).equals(before.select(kept))
    again = seal(fresh)
    assert again.already
    assert again.manifest == sealed.manifest

    commit(fresh, small(9, validator=keypair.ss58_address), keypair)
    report = audit(fresh, hotkey=keypair.ss58_address)
    assert report.holds, whats(report)
    assert (report.days, report.rounds, report.records, report.unsigned) == (1, 1, 20, 0)
    assert audit(fresh, sample=0.5).holds

    removed = collect_garbage(fresh, grace=NEVER, keep_superseded=NEVER)
    assert len(removed.superseded) == 12
    assert not removed.orphans
    report = audit(Corpus(make_store()))
    assert report.holds, whats(report)
    assert report.records == 20

    record_id = str(after.column("record_id")[5])
    proof = parse_proof(prove(fresh, record_id).to_json(), "proof.json")
    assert check_proof(proof, manifest=sealed.manifest, hotkey=keypair.ss58_address).holds
    assert check_proof(proof, root="0x" + sealed.manifest.merkle_root).holds
    assert not check_proof(proof, root="0" * 64).holds
    forged = proof.model_copy(update={"record": proof.record | {"score": 1.0}})
    assert not check_proof(forged, manifest=sealed.manifest).holds


def test_the_same_round_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        commit(Corpus(open_store(str(tmp_path / name))), small(3))
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 3
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_a_late_round_is_in_the_next_sealed_day(corpus: Corpus) -> None:
    commit(corpus, small(1))
    late = small(2)
    real = corpus.open_day
    corpus.open_day = lambda now: TODAY  # type: ignore[method-assign]
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


def test_a_retry_after_its_day_was_sealed_is_not_a_second_round(corpus: Corpus) -> None:
    commit(corpus, small(1))
    seal(corpus)
    assert commit(corpus, small(1)).day == TODAY
    assert corpus.live_rounds() == []
    collect_garbage(corpus, grace=NEVER, keep_superseded=NEVER)
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


def test_days_that_cannot_be_sealed(corpus: Corpus) -> None:
    with pytest.raises(CorpusError, match="no rounds to seal for 2026-01-31"):
        seal(corpus)
    commit(corpus, small(1))
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
    task = again.challenge.task.model_copy(update={"task_id": "f" * 32})
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
        if key.endswith("manifest.json"):
            raise KeyboardInterrupt
        return put_new(key, data)

    corpus.store.put_new = die  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        seal(corpus)
    corpus.store.put_new = put_new  # type: ignore[method-assign]
    assert corpus.sealed_days() == []
    assert audit(corpus).holds
    assert not collect_garbage(corpus, grace=NEVER, dry_run=True).orphans, "the log claims the files already"
    commit(corpus, small(2, created_at=DAY + timedelta(days=1)))
    assert seal(corpus, TODAY + timedelta(days=1)).manifest.sequence == 1
    assert corpus.sealed_days() == [TODAY, TODAY + timedelta(days=1)]
    report = audit(corpus)
    assert report.holds, whats(report)
    assert report.records == 8


def test_garbage_is_what_nobody_claims(corpus: Corpus, tmp_path: Path) -> None:
    commit(corpus, small(1))
    store = corpus.store
    store.put_new("rounds/date=2026-01-31/half/original.tar", b"orphan")
    store.put_new("sealed/date=2026-01-31/0123456789abcdef/original-00000.tar", b"orphan")
    store.put_new("exports/sample/README.md", b"not mine")
    left = tmp_path / "corpus" / ".unfinished" / "1-a"
    left.write_bytes(b"half")
    assert collect_garbage(corpus).removed == [], "young things may be somebody's work"
    planned = collect_garbage(corpus, grace=NEVER, dry_run=True)
    assert {entry.key for entry in planned.removed} == {
        "rounds/date=2026-01-31/half/original.tar",
        "sealed/date=2026-01-31/0123456789abcdef/original-00000.tar",
        "1-a",
    }
    assert store.head("rounds/date=2026-01-31/half/original.tar")
    assert collect_garbage(corpus, grace=NEVER).removed == planned.removed
    assert collect_garbage(corpus, grace=NEVER).removed == []
    assert audit(corpus).holds
    seal(corpus)
    broken = next(iter(corpus.store.entries("sealed/date=2026-01-31/")))
    store.delete(broken.key)
    with pytest.raises(CorpusError, match="rounds are kept"):
        collect_garbage(corpus, grace=NEVER, keep_superseded=NEVER)
    assert len(list(store.entries("rounds/"))) == 3


# Tampering: one thing is changed, the audit names it.


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
        pq.write_table(table.replace_schema_metadata({KEY: json.dumps(statement)}), path)
        return
    manifest = root / "sealed/date=2026-01-31/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"signature": "00" * 64}))


TAMPERING = {
    "a byte of a perturbed image": (lambda root: _flip_byte(_first(root, "perturbed*.tar"), 700), "sha256"),
    "a byte of an original image": (lambda root: _flip_byte(_first(root, "original*.tar"), 700), "PNG|pixels"),
    "a byte of a tar header": (lambda root: _flip_byte(_first(root, "perturbed*.tar"), 3), "another member"),
    "a byte of padding": (lambda root: _flip_byte(_first(root, "perturbed*.tar"), -1), "behind|sha256"),
    "a swapped image": (_swap_images, "sha256"),
    "a metric": (lambda root: _rewrite(_first(root, "metadata*"), _set("ssim", 0.999)), "Merkle root"),
    "a label": (lambda root: _rewrite(_first(root, "metadata*"), _set("adversarial_label", 7)), "Merkle root"),
    "a score": (lambda root: _rewrite(_first(root, "metadata*"), _set("score", 1.0)), "Merkle root"),
    "a pointer": (lambda root: _rewrite(_first(root, "metadata*"), _set("original_offset", 1024)), "byte 1024|places"),
    "a pointer that is none": (lambda root: _rewrite(_first(root, "metadata*"), _set("original_offset", None)), "None"),
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


@pytest.fixture(scope="module")
def clean_corpora(tmp_path_factory: pytest.TempPathFactory, keypair) -> Path:  # type: ignore[no-untyped-def]
    root = tmp_path_factory.mktemp("clean")
    for name in ("rounds", "sealed"):
        corpus = Corpus(open_store(str(root / name)))
        for seed in (1, 2):
            commit(corpus, small(seed, validator=keypair.ss58_address), keypair)
        if name == "sealed":
            seal(corpus, signer=keypair)
            collect_garbage(corpus, grace=NEVER, keep_superseded=NEVER)
        assert audit(corpus).holds
    return root


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
def test_an_answer_without_its_miners_signature_is_named(tmp_path: Path, keypair, sealed: bool) -> None:  # type: ignore[no-untyped-def]
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
        "the miner's signature is not " + second.miner_hotkey + "'s over this response",
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
    assert [fault.what for fault in audit(corpus).faults] == ["the record is no_flip, yet it has a score of 0.9"]


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
    assert "its manifest is gone" in whats(audit(Corpus(open_store(str(root)))))
    shutil.rmtree(root / "sealed/log")
    shutil.copytree(clean_corpora / "sealed", root, dirs_exist_ok=True)
    shutil.rmtree(root / "sealed/log")
    assert "does not know this day" in whats(audit(Corpus(open_store(str(root)))))


def test_another_hotkey_does_not_do(clean_corpora: Path) -> None:
    report = audit(Corpus(open_store(str(clean_corpora / "sealed"))), hotkey="5Somebody")
    assert "not by 5Somebody" in whats(report)


def test_a_newer_format_is_refused_by_name(clean_corpora: Path, tmp_path: Path) -> None:
    shutil.copytree(clean_corpora / "sealed", tmp_path / "new")
    manifest = tmp_path / "new/sealed/date=2026-01-31/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 2}))
    corpus = Corpus(open_store(str(tmp_path / "new")))
    with pytest.raises(CorpusError, match=r"manifest\.json is of format version 2, this program reads up to 1"):
        corpus.table()
    assert "format version 2" in whats(audit(corpus))


def test_rounds_that_are_inconsistent_are_not_written(corpus: Corpus) -> None:
    made = small(1)
    made.responses[0] = replace(made.responses[0], body=b"other")
    with pytest.raises(CorpusError, match="bytes are not those"):
        commit(corpus, made)
    assert not list(corpus.store.entries())


def test_webdataset_and_datasets_read_rounds_and_sealed_days(clean_corpora: Path) -> None:
    import datasets
    import webdataset

    datasets.disable_progress_bars()
    for state in ("rounds", "sealed"):
        shards = sorted(str(path) for path in (clean_corpora / state).rglob("perturbed*.tar"))
        found = list(
            webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("__key__", "perturbed.png")
        )
        assert len(found) == 6
        assert found[0][1].size == (32, 32)
        tables = sorted(str(path) for path in (clean_corpora / state).rglob("metadata*.parquet"))
        loaded = datasets.load_dataset("parquet", data_files=tables, split="train", streaming=True)
        rows = {row["record_id"]: row for row in loaded}
        assert len(rows) == 8
        assert {key for key, _ in found} == {key for key, row in rows.items() if row["outcome"] == "accepted"}
        images = datasets.load_dataset("webdataset", data_files=shards, split="train", streaming=True)
        assert {row["__key__"].rpartition("/")[2] for row in images} == {key for key, _ in found}


def test_duckdb_sees_one_view(clean_corpora: Path) -> None:
    import duckdb

    connection = duckdb.connect()
    connection.register("records", Corpus(open_store(str(clean_corpora / "sealed"))).dataset())
    query = "select count(*) from records where outcome = 'accepted' and ssim > 0.5"
    assert connection.execute(query).fetchall() == [(6,)]
