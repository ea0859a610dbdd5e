"""Inclusion proofs: what they prove, and which files are not proofs."""

import re
from pathlib import Path

import pytest

from perturb.schemas.errors import CorpusError
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import Signer
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.prove import check_proof, parse_proof, prove
from tests.support.small_corpora import TODAY


def test_a_proof_shows_the_record_and_no_other(clean_corpora: Path, keypair: Signer) -> None:
    corpus = Corpus(open_store(str(clean_corpora / "sealed")))
    (manifest,) = corpus.manifests()
    for record_id in corpus.table(columns=["record_id"]).column(0).to_pylist():
        proof = parse_proof(prove(corpus, record_id).to_json(), "proof.json")
        report = check_proof(proof, manifest=manifest, root=manifest.merkle_root, hotkey=keypair.ss58_address)
        assert report.holds, report.faults
        assert report.against == (f"manifest of {TODAY}, signed by {keypair.ss58_address}", "the given root")
        for change in ({"record": proof.record | {"score": 0.123}}, {"index": (proof.index + 1) % proof.size}):
            assert not check_proof(proof.model_copy(update=change), manifest=manifest).holds
    assert check_proof(proof).against == ()
    assert "not by 5Other" in check_proof(proof, manifest=manifest, hotkey="5Other").faults[0]
    other = manifest.model_copy(update={"merkle_root": "0" * 64, "signer": None, "signature": None})
    assert "does not lead to root 000" in check_proof(proof, manifest=other).faults[0]


def test_a_record_that_cannot_be_proven_is_named(clean_corpora: Path) -> None:
    corpus = Corpus(open_store(str(clean_corpora / "rounds")))
    with pytest.raises(CorpusError, match="'xyz' is not a record ID; accepted: 32 hex digits"):
        prove(corpus, "xyz")
    with pytest.raises(CorpusError, match="is not in a sealed day; seal its day first"):
        prove(corpus, str(corpus.table(columns=["record_id"]).column(0)[0]))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"{", "x is not JSON; a proof is made by `perturb prove RECORD_ID`"),
        (b"[]", "x has format version None"),
        (b'{"format": 2}', "x has format version 2, this program reads up to 1"),
        (b'{"format": 1}', "x: field day: Field required"),
    ],
)
def test_a_file_that_is_not_a_proof_is_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(CorpusError, match=re.escape(sentence)):
        parse_proof(data, "x")
