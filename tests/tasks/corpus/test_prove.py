"""Proofs of records: what they prove against which head or root, and which files are not proofs."""

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import CorpusError
from perturb.schemas.trust import Trust
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.log.entry import NewEntry
from perturb.sinks.log.log import Log
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.consistency import length_at, parse_consistency, prove_consistency
from perturb.tasks.corpus.prove import Proof, check_proof, parse_proof, prove
from tests.support.corpora import VALIDATOR
from tests.support.small_corpora import TODAY, commit, seal, small

OURS = Trust(frozenset({VALIDATOR.ss58_address}))
OTHERS = Trust(frozenset({"5Other"}))
AT = datetime(2026, 2, 3, tzinfo=UTC)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Three sealed days, and entries of other kinds before, between and after them: 300 in all."""
    corpus = Corpus(open_store(str(tmp_path_factory.mktemp("grown"))))
    log, plans = Log(corpus.store, trust=OURS), iter(range(300))

    def plan(count: int) -> None:
        for number in (next(plans) for _ in range(count)):
            document = NewEntry(kind="plan", key=f"plans/{number}.json", sha256=f"{number:064x}")
            log.append(document, signer=VALIDATOR, at=AT)

    plan(1)
    for offset, later in enumerate((1, 2, 293)):
        created_at = datetime(2026, 1, 31, 9, tzinfo=UTC) + timedelta(days=offset)
        commit(corpus, small(offset, created_at=created_at, validator=VALIDATOR.ss58_address), VALIDATOR)
        seal(corpus, TODAY + timedelta(days=offset), signer=VALIDATOR, now=lambda: AT + timedelta(days=9))
        plan(later)
    return corpus


def ids(corpus: Corpus, offset: int) -> list[str]:
    days = [TODAY + timedelta(days=offset)]
    return list(corpus.dataset(days=days).to_table(columns=["record_id"]).column(0).to_pylist())


def test_every_record_of_every_day_is_proven_and_no_other(grown: Corpus) -> None:
    newest = Log(grown.store).newest()
    assert newest is not None
    assert newest.head.size == 300
    for offset in range(3):
        for record_id in ids(grown, offset):
            proof = parse_proof(prove(grown, record_id, trust=OURS).to_json(), "proof.json")
            report = check_proof(proof, trust=OURS, root="0x" + newest.head.root.upper())
            assert report.holds, report.faults
            assert report.day == TODAY + timedelta(days=offset)
            assert len(report.against) == 2
            for change in (
                {"record": proof.record | {"score": 0.123}},
                {"index": (proof.index + 1) % proof.size},
                {"size": proof.size + 1},
                {"path": proof.path[:-1]},
                {"log_path": proof.log_path[1:]},
                {"entry": proof.entry.model_copy(update={"sequence": proof.entry.sequence + 1})},
            ):
                assert not check_proof(proof.model_copy(update=change), trust=OURS).holds, change
    assert not check_proof(proof).holds, "nothing was compared with"
    assert "not by 5Other" in check_proof(proof, trust=OTHERS).faults[0]
    assert check_proof(proof, trust=OTHERS, root=newest.head.root).holds, "a trusted root needs no signature"


def test_an_early_proof_holds_for_a_late_head(grown: Corpus) -> None:
    log = Log(grown.store, trust=OURS)
    record_id = ids(grown, 0)[0]
    early = prove(grown, record_id, trust=OURS, entries=3)
    late = log.newest()
    assert late is not None
    assert early.head.size == 3
    growth = parse_consistency(prove_consistency(log, 3).to_json(), "growth.json")
    assert check_proof(early, trust=OURS, head=late.head, consistency=growth).holds
    assert check_proof(early, trust=OTHERS, root=late.head.root, consistency=growth).faults
    alone = check_proof(early, trust=OURS, root=late.head.root)
    assert "does not lead to root" in alone.faults[0]
    assert "`perturb log --consistency` proves it" in alone.faults[0]
    assert "begins with 4 entries, the proof has 3" in " ".join(
        check_proof(early, trust=OURS, head=late.head, consistency=prove_consistency(log, 4)).faults
    )
    # The same proof against the head of a log that was cut or forked behind it.
    for change in ({"new": log.record(200).head}, {"old": log.record(1).head}, {"path": growth.path[::-1]}):
        forged = growth.model_copy(update=change)
        assert not check_proof(early, trust=OURS, head=late.head, consistency=forged).holds, change
    unsigned = growth.model_copy(update={"new": late.head.model_copy(update={"signer": None, "signature": None})})
    assert "signed by no one" in check_proof(early, trust=OURS, consistency=unsigned).faults[0]


def test_a_root_says_how_long_the_log_was(grown: Corpus) -> None:
    log = Log(grown.store, trust=OURS)
    newest = log.newest()
    assert newest is not None
    for record in (newest, log.record(298), log.record(255), log.record(256), log.record(0)):
        assert length_at(log, newest, "sha256:" + record.head.root.upper()) == record.head.size
    assert length_at(log, log.record(200), newest.head.root) is None


@given(st.data())
def test_one_bit_breaks_a_proof(grown: Corpus, data: st.DataObject) -> None:
    proof = _first_proof(grown)
    written = proof.to_json()
    place = data.draw(st.integers(0, len(written) - 1))
    changed = bytearray(written)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        parsed = parse_proof(bytes(changed), "proof.json")
    except CorpusError:
        return
    assert not check_proof(parsed, trust=OURS).holds


_PROOFS: list[Proof] = []


def _first_proof(grown: Corpus) -> Proof:
    if not _PROOFS:
        _PROOFS.append(prove(grown, ids(grown, 1)[0], trust=OURS))
    return _PROOFS[0]


def test_a_round_that_was_committed_late_is_proven_in_the_day_that_took_it_in(tmp_path: Path) -> None:
    corpus = Corpus(open_store(str(tmp_path)))
    created = datetime(2026, 1, 31, 9, tzinfo=UTC)
    commit(corpus, small(1, created_at=created))
    seal(corpus, TODAY)
    late = commit(corpus, small(2, created_at=created)).records[0].record_id
    with pytest.raises(CorpusError, match="is not in a sealed day from 2026-01-31 on; seal its day first"):
        prove(corpus, late)
    commit(corpus, small(3, created_at=created + timedelta(days=2)))
    seal(corpus, TODAY + timedelta(days=2), now=lambda: AT + timedelta(days=9))
    assert check_proof(prove(corpus, late)).day == date(2026, 2, 2)
    with pytest.raises(CorpusError, match="among the first 1 entries of the log"):
        prove(corpus, late, entries=1)


def test_a_record_that_cannot_be_proven_is_named(tmp_path: Path, grown: Corpus) -> None:
    for wrong in ("xyz", "0" * 32, "20261340" + "0" * 24):
        with pytest.raises(CorpusError, match=f"'{wrong}' is not a record ID; accepted: its day and 24 hex digits"):
            prove(grown, wrong)
    with pytest.raises(CorpusError, match="is not in a sealed day from 2026-01-31 on"):
        prove(grown, "20260131" + "0" * 24)
    with pytest.raises(CorpusError, match=r"log/00000400.json is missing from the log"):
        prove(grown, "20260131" + "0" * 24, entries=401)
    with pytest.raises(CorpusError, match="the log has 300 entries; asked for were 9 and 301"):
        prove_consistency(Log(grown.store), 9, 301)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"{", "x is not JSON; a proof is made by `perturb prove RECORD_ID`"),
        (b"[]", "x has format version None"),
        (b'{"format": 9}', "x has format version 9, this program reads up to"),
        (b'{"format": 1}', "x has format version 1, which this program no longer reads"),
    ],
)
def test_a_file_that_is_not_a_proof_is_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(CorpusError, match=re.escape(sentence)):
        parse_proof(data, "x")


def test_only_the_entry_of_a_sealed_day_proves_records(grown: Corpus) -> None:
    proof = _first_proof(grown)
    fields = proof.model_dump(mode="json")
    fields["entry"]["kind"] = "plan"
    with pytest.raises(CorpusError, match=r"x: field entry: .*the entry of a plan; accepted: that of a sealed-day"):
        parse_proof(canonical_json(fields), "x")
