"""Statements, manifests and proofs have one form, and what a proof doesn't prove is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturb.schemas.errors import CorpusError
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import parse_manifest
from perturb.sinks.formats.parquet import KEY
from perturb.sinks.stores.open import open_store
from perturb.subnet.keys import development_keypair
from perturb.subnet.signing import response_message, verify_response_signature
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.prove import Proof, check_proof, parse_proof, prove
from tests.support.small_corpora import make_clean_corpora, whats

VALIDATOR = development_keypair("//PerturbValidator")
Rewrite = Callable[[bytes], bytes]
# Each keeps the values that one parser or another reads.
REWRITINGS: dict[str, Rewrite] = {
    "a key twice, the first read by others": lambda data: b'{"records":999,' + data[1:],
    "a key twice, the last read by others": lambda data: data[:-1] + b',"records":8}',
    "a number as text": lambda data: data.replace(b'"records":8,', b'"records":"8",', 1),
    "an integer as a float": lambda data: data.replace(b'"records":8,', b'"records":8.0,', 1),
    "spaces": lambda data: json.dumps(json.loads(data), sort_keys=True).encode(),
    "another order": lambda data: json.dumps(
        dict(reversed(json.loads(data).items())), separators=(",", ":"), ensure_ascii=False
    ).encode(),
    "an escape": lambda data: data.replace(b'"records"', b'"\\u0072ecords"', 1),
    "a line at the end": lambda data: data + b"\n",
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clean_corpora(tmp_path_factory.mktemp("documents"), VALIDATOR)


@pytest.fixture(scope="module")
def manifest(corpora: Path) -> bytes:
    return next((corpora / "sealed").glob("sealed/date=*/manifest.json")).read_bytes()


@pytest.mark.parametrize("rewrite", REWRITINGS.values(), ids=REWRITINGS)
def test_a_manifest_has_one_form(manifest: bytes, rewrite: Rewrite) -> None:
    assert parse_manifest(manifest, "m").signature_fault() is None
    assert rewrite(manifest) != manifest
    with pytest.raises(CorpusError, match=r"m is not (canonical )?JSON"):
        parse_manifest(rewrite(manifest), "m")


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), insert=st.booleans())
def test_a_manifest_of_other_bytes_is_refused_or_its_signature_is(
    manifest: bytes, place: int, byte: int, insert: bool
) -> None:
    place %= len(manifest)
    changed = manifest[:place] + bytes([byte]) + manifest[place + (not insert) :]
    if changed == manifest:
        return
    try:
        read = parse_manifest(changed, "m")
    except CorpusError:
        return
    assert read.signature_fault() is not None


@pytest.mark.parametrize("name", ["spaces", "a key twice, the first read by others", "a number as text"])
def test_a_round_statement_has_one_form(corpora: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(corpora / "rounds", tmp_path, dirs_exist_ok=True)
    commit = next(tmp_path.glob("rounds/date=*/*/metadata.parquet"))
    table = pq.read_table(commit)
    statement = table.schema.metadata[KEY]
    rewritten = REWRITINGS[name](statement.replace(b'"records":4,', b'"records":8,'))
    rewritten = rewritten.replace(b'"records":8', b'"records":4').replace(b'"records":"8"', b'"records":"4"')
    assert rewritten != statement
    pq.write_table(table.replace_schema_metadata({KEY: rewritten}), commit)
    report = audit(Corpus(open_store(str(tmp_path))))
    assert "is not canonical JSON" in whats(report)


@pytest.fixture(scope="module")
def proof(corpora: Path) -> Proof:
    corpus = Corpus(open_store(str(corpora / "sealed")))
    return prove(corpus, corpus.table(columns=["record_id"]).column(0)[0].as_py())


@pytest.mark.parametrize("column", ["perturbed_shard", "original_offset"])
def test_a_proof_with_pointer_columns_is_refused(proof: Proof, column: str) -> None:
    assert parse_proof(proof.to_json(), "p") == proof
    forged = proof.model_copy(update={"record": proof.record | {column: "anywhere"}})
    with pytest.raises(CorpusError, match=f"p: field record: .*{column}.*no proof covers"):
        parse_proof(forged.to_json(), "p")


@pytest.mark.parametrize("name", ["spaces", "an escape", "a line at the end"])
def test_a_proof_has_one_form(proof: Proof, name: str) -> None:
    data = proof.to_json().replace(b'"record_id"', b'"records"') if name == "an escape" else proof.to_json()
    with pytest.raises(CorpusError, match="p is not canonical JSON"):
        parse_proof(REWRITINGS[name](data), "p")


def test_a_number_that_json_does_not_have_is_refused(proof: Proof) -> None:
    for number in (b"NaN", b"1e999"):
        with pytest.raises(CorpusError, match="p is not canonical JSON"):
            parse_proof(proof.to_json().replace(b'"height":32', b'"height":' + number), "p")


def test_a_root_binds_the_day_and_the_place(proof: Proof) -> None:
    """A proof that states another day, place or number of records leads to no root."""
    entry = proof.entry
    for change in ({"day": "2020-01-01"}, {"records": proof.size + 1}, {"merkle_root": "00" * 32}):
        dated = proof.model_copy(update={"entry": entry.model_copy(update={"detail": entry.detail | change})})
        assert check_proof(proof, root=proof.head.root).holds
        assert not check_proof(dated, root=proof.head.root).holds


def test_a_wallets_signature_of_wrapped_text_counts_for_nothing(manifest: bytes) -> None:
    """A page that lets a person sign `<Bytes>text</Bytes>` gets no statement and no answer out of it."""
    unsigned = parse_manifest(manifest, "m").model_copy(update={"signer": VALIDATOR.ss58_address, "signature": None})
    for wrapped, holds in ((unsigned.payload(), True), (b"<Bytes>" + unsigned.payload() + b"</Bytes>", False)):
        signed = unsigned.model_copy(update={"signature": bytes(VALIDATOR.sign(wrapped)).hex()})
        assert (signed.signature_fault() is None) == holds
    capitals = signed.model_copy(update={"signature": bytes(VALIDATOR.sign(unsigned.payload())).hex().upper()})
    assert capitals.signature_fault() is not None

    message = response_message("0" * 64, "1", "v", VALIDATOR.ss58_address, 200, "d" * 64)
    facts = {"task_id": "0" * 64, "nonce": "1", "validator_hotkey": "v", "status": 200, "body_sha256": "d" * 64}
    for wrapped, holds in ((message, True), (b"<Bytes>" + message + b"</Bytes>", False)):
        signature = bytes(VALIDATOR.sign(wrapped)).hex()
        assert verify_response_signature(signature, miner_hotkey=VALIDATOR.ss58_address, **facts) == holds
