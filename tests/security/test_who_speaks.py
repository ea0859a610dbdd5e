"""Only what our own hotkey or a trusted validator signed is sealed, audits clean, pays, is proven or leaves."""

import io
import json
import re
import stat
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from perturb.cli import app
from perturb.schemas.errors import AuditError, CorpusError, PerturbError, SettingsError
from perturb.schemas.image import encode_png
from perturb.schemas.settings import SubnetSettings, load_settings
from perturb.schemas.trust import Trust
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.log.entry import NewEntry
from perturb.sinks.log.log import Log
from perturb.sinks.stores.base import ObjectCorrupt
from perturb.sinks.stores.open import open_store
from perturb.subnet.keys import load_keypair
from perturb.subnet.trust import load_trust
from perturb.tasks.corpus.audit import audit, audit_store
from perturb.tasks.corpus.commit import commit_records
from perturb.tasks.corpus.gc import collect_garbage
from perturb.tasks.corpus.prove import prove
from perturb.tasks.export.export import export, export_day
from perturb.tasks.export.hub import publish
from perturb.tasks.export.preview import check_tiers, preview
from perturb.tasks.export.share import share
from perturb.tasks.monitor.status import read_status
from perturb.tasks.tiers.tier_file import load_tiers
from perturb.tasks.weights.own_records import OwnHistory
from tests.support.commands import ROOT
from tests.support.forgeries import MALLORY, OURS, bad_key, foreign_day, honest, insert, laundered, rewritten, stripped
from tests.support.small_corpora import LATER, NO_GRACE, TODAY, commit, seal, small, whats

TRUST = Trust(frozenset({OURS.ss58_address}))
NEXT = date(2026, 2, 1)
FORGERIES = (stripped, rewritten, laundered)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's folder, whose settings name our key; commands find the corpus in `data`."""
    (tmp_path / "perturb.toml").write_text(
        f'tiers = "{ROOT / "tiers.toml"}"\ncache_dir = "{tmp_path / "cache"}"\n'
        'subnet.hotkey_uri = "//PerturbValidator"\nsubnet.roster = "roster.toml"\n'
    )
    (tmp_path / "roster.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> tuple[str, BaseException | None]:
    """What a command printed, and the error that it ended with."""
    ran = CliRunner().invoke(app, list(arguments))
    return ran.output, None if isinstance(ran.exception, SystemExit) else ran.exception


def test_what_we_signed_passes_everywhere(folder: Path) -> None:
    corpus = honest(folder / "data")
    report = audit(corpus, trust=TRUST)
    assert report.holds, whats(report)
    assert report.signers == {OURS.ss58_address: 2}
    printed, error = run("audit", "--no-deep")
    assert error is None
    assert "everything holds" in printed
    assert paid(OwnHistory(corpus, TRUST, cache=folder / "kept")) == (12, 0)
    assert seal(corpus, NEXT, signer=OURS, trust=TRUST).left == {}


def paid(history: OwnHistory) -> tuple[int, int]:
    """Return how many answers pay, sealed and live, and how many days and rounds are left out."""
    again = OwnHistory(history._corpus, history._trust, cache=history._cache)
    assert again.live.sort_by("body_sha256").equals(history.live.sort_by("body_sha256"))
    assert again.left == history.left, "what is kept from the first run is what the second one finds"
    answers = history.live.num_rows + sum(tenure.asked for tenure in history.state.values())
    return answers, sum(history.left.values())


@pytest.mark.parametrize("forge", FORGERIES)
def test_the_audit_of_a_forged_corpus_names_it(folder: Path, forge: Callable[[Path], Corpus]) -> None:
    forge(folder / "data")
    report = audit_store(load_settings(), deep=False)
    assert not report.holds
    assert f"not by {OURS.ss58_address}" in whats(report)
    printed, error = run("audit", "--no-deep")
    assert isinstance(error, AuditError)
    assert "everything holds" not in printed
    assert "--hotkey and subnet.trusted_validators say whose signatures count" in str(error)
    _, error = run("audit", "--no-deep", "--hotkey", MALLORY.ss58_address)
    # Mallory's own corpus holds for those who trust Mallory; it never does for us.
    assert (error is None) == (forge is rewritten)


def test_unsigned_is_accepted_on_request_and_that_is_said(folder: Path) -> None:
    stripped(folder / "data")
    printed, error = run("audit", "--no-deep", "--allow-unsigned")
    assert error is None
    assert "NOT SIGNED" in printed
    assert "everything holds" not in printed
    rewritten(folder / "other")
    _, error = run("audit", str(folder / "other"), "--no-deep", "--allow-unsigned")
    assert isinstance(error, AuditError), "a stranger's signature is refused all the same"


def test_a_seal_takes_in_our_rounds_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = laundered(tmp_path / "corpus")
    sealed = seal(corpus, NEXT, signer=OURS, trust=TRUST)
    assert corpus.claims(sealed.manifest) == {small(3).challenge.round_id}
    assert sum(sealed.left.values()) == 2
    assert f"it is signed by no one, not by {OURS.ss58_address}" in sealed.left
    assert f"it is signed by {MALLORY.ss58_address}" in " ".join(sealed.left)
    assert "subnet.trusted_validators" in caplog.text
    assert len(corpus.live_rounds()) == 2, "they stay where they are"
    with pytest.raises(CorpusError, match="none of the 2 rounds up to 2026-02-02 may be sealed"):
        seal(corpus, date(2026, 2, 2), signer=OURS, trust=TRUST, early=True)


def test_a_round_of_ours_counts_in_its_own_place_only(tmp_path: Path) -> None:
    corpus = honest(tmp_path / "corpus")
    (ref,) = corpus.live_rounds()
    source = corpus.store.entries(f"rounds/date={ref.day}/{ref.round_id}/")
    for entry in list(source):
        for place in (f"date={ref.day}/{ref.round_id[:-1]}0", f"date={date(2026, 2, 2)}/{ref.round_id}"):
            corpus.store.put(f"rounds/{place}/{entry.key.rpartition('/')[2]}", corpus.store.get(entry.key))
    sealed = seal(corpus, date(2026, 2, 2), signer=OURS, trust=TRUST, early=True)
    assert (sealed.manifest.rounds, sum(sealed.left.values())) == (1, 2)


def test_a_trusted_validators_rounds_are_ours_too(tmp_path: Path) -> None:
    corpus = honest(tmp_path / "corpus")
    commit(corpus, small(9, validator=MALLORY.ss58_address), MALLORY)
    both = Trust(frozenset({OURS.ss58_address, MALLORY.ss58_address}))
    assert seal(corpus, NEXT, signer=OURS, trust=both).manifest.rounds == 2
    assert audit(corpus, trust=both).holds, whats(audit(corpus, trust=both))
    report = audit(corpus, trust=TRUST)
    assert f"its records are from {MALLORY.ss58_address}, not only from {OURS.ss58_address}" in whats(report)


def test_no_round_speaks_for_another_validator(tmp_path: Path) -> None:
    corpus = Corpus(open_store(str(tmp_path / "corpus")))
    # Signed by us, but half of its rows are somebody else's.
    made = small(6, validator=OURS.ss58_address)
    records = list(commit(Corpus(open_store(str(tmp_path / "made"))), made, OURS).records)
    records[-1] = records[-1].model_copy(update={"validator_hotkey": MALLORY.ss58_address})
    bodies = {record.record_id: response.body for record, response in zip(records, made.responses, strict=True)}
    commit_records(corpus, records, made.challenge.png, bodies, signer=OURS)
    both = Trust(frozenset({OURS.ss58_address, MALLORY.ss58_address}))
    told = f"it is signed by {OURS.ss58_address}, but its records are from {MALLORY.ss58_address}"
    assert told in whats(audit(corpus, trust=both))
    with pytest.raises(CorpusError, match=told):
        seal(corpus, signer=OURS, trust=both)
    assert paid(OwnHistory(corpus, both, cache=tmp_path / "kept")) == (0, 1)


def test_a_seal_does_not_continue_a_strangers_log(tmp_path: Path) -> None:
    corpus = honest(tmp_path / "corpus")
    foreign_day(corpus)
    fresh = Corpus(corpus.store)
    told = f"sealed/date={TODAY}/manifest.json.* does not count: it is signed by {MALLORY.ss58_address}"
    with pytest.raises(CorpusError, match=told):
        seal(fresh, NEXT, signer=OURS, trust=TRUST)


def test_a_strangers_day_does_not_make_our_rounds_garbage(tmp_path: Path) -> None:
    corpus = honest(tmp_path / "corpus")
    foreign_day(corpus)
    before = list(corpus.store.entries())
    with pytest.raises(CorpusError, match=f"does not count: it is signed by {MALLORY.ss58_address}"):
        collect_garbage(
            Corpus(corpus.store), grace=NO_GRACE, keep_superseded=NO_GRACE, trust=TRUST, now=LATER.replace(year=2030)
        )
    assert list(corpus.store.entries()) == before


@pytest.mark.parametrize("forge", FORGERIES)
def test_forged_records_pay_nobody(folder: Path, forge: Callable[[Path], Corpus]) -> None:
    corpus = forge(folder / "data")
    # A day that is not ours takes in no round: all three are left out by themselves, and its entry of the log.
    expected = (12, 2) if forge is laundered else (0, 4)
    assert paid(OwnHistory(corpus, TRUST, cache=folder / "kept")) == expected
    printed, error = run("weights", "--dry-run")
    assert error is None
    assert "LEFT OUT" in printed


def test_weights_notice_records_that_were_changed_below_a_signature(folder: Path) -> None:
    corpus = honest(folder / "data")
    (entry,) = corpus.manifests()[0].file("metadata")
    data = bytearray(corpus.store.get(entry.key))
    data[len(data) // 2] ^= 1
    corpus.store.put(entry.key, bytes(data))
    with pytest.raises(CorpusError, match="differs from what was sealed"):
        OwnHistory(corpus, TRUST, cache=folder / "kept").day(TODAY)
    corpus.store.put(entry.key, bytes(data))
    (entry,) = corpus.manifests()[0].file("miners")
    data = bytearray(corpus.store.get(entry.key))
    data[len(data) // 2] ^= 1
    corpus.store.put(entry.key, bytes(data))
    with pytest.raises(ObjectCorrupt):
        _ = OwnHistory(Corpus(corpus.store), TRUST, cache=folder / "kept").state


def test_a_strangers_day_is_never_exported(tmp_path: Path) -> None:
    tier = load_tiers(ROOT / "tiers.toml")["enterprise"]
    corpus = honest(tmp_path / "corpus")
    late = date(2027, 1, 1)
    export(corpus, tier, today=late, trust=TRUST)
    assert share(corpus.store, "enterprise", trust=TRUST).files
    foreign_day(corpus)
    told = f"signed by {MALLORY.ss58_address}, not by {OURS.ss58_address}"
    for leave in (
        lambda: export(Corpus(corpus.store), tier, today=late, trust=TRUST),
        lambda: share(corpus.store, "enterprise", trust=TRUST),
        lambda: publish(corpus.store, "enterprise", repo="org/name", trust=TRUST),
        lambda: export_day(Corpus(corpus.store), tier, TODAY, trust=TRUST),
    ):
        with pytest.raises(CorpusError, match=told):
            leave()
    for forge in (stripped, rewritten):
        other = forge(tmp_path / forge.__name__)
        result = export(other, tier, today=late, trust=TRUST)
        assert (result.records, result.added, sum(result.left.values())) == (0, (), 1)
        seen, checked = preview(other, tier, trust=TRUST), check_tiers(other, ROOT / "tiers.toml", trust=TRUST)
        assert (seen.records, seen.rows, checked.accepted) == (0, (), 0)
        assert seen.left == checked.left


def test_an_export_reads_what_was_sealed(tmp_path: Path) -> None:
    corpus = honest(tmp_path / "corpus")
    (entry,) = corpus.manifests()[0].file("metadata")
    # Other records under the signed manifest: those of a stranger's day.
    (other,) = rewritten(tmp_path / "other").manifests()[0].file("metadata")
    foreign = (tmp_path / "other" / other.key).read_bytes()
    corpus.store.put(entry.key, foreign.ljust(entry.size, b"\0")[: entry.size])
    with pytest.raises(CorpusError, match="differs from what was sealed"):
        export(corpus, load_tiers(ROOT / "tiers.toml")["research"], today=date(2027, 1, 1), trust=TRUST)


def test_an_export_names_the_record_whose_original_was_replaced(tmp_path: Path) -> None:
    """By a PNG of the same size and length, whose pixels alone tell that it is another one."""
    corpus = honest(tmp_path / "corpus")
    (row, *_) = [row for row in corpus.table(days=[TODAY]).to_pylist() if row["outcome"] == "accepted"]
    data = bytearray(corpus.store.get(row["original_shard"]))
    start, length = row["original_offset"], row["original_length"]
    pixels = np.array(Image.open(io.BytesIO(data[start : start + length])))
    random = np.random.default_rng(0)
    while True:
        other = pixels.copy()
        other[tuple(random.integers(0, other.shape))] ^= 1
        if len(encode_png(other)) == length:
            break
    data[start : start + length] = encode_png(other)
    corpus.store.put(row["original_shard"], bytes(data))
    tier = load_tiers(ROOT / "tiers.toml")["enterprise"]
    with pytest.raises(CorpusError, match=r"the original of record 2026.* is damaged .its pixels"):
        export(corpus, tier, today=date(2027, 1, 1), trust=TRUST)


def test_an_export_names_the_record_whose_image_was_changed(tmp_path: Path) -> None:
    corpus = honest(tmp_path / "corpus")
    (row, *_) = [row for row in corpus.table(days=[TODAY]).to_pylist() if row["outcome"] == "accepted"]
    data = bytearray(corpus.store.get(row["perturbed_shard"]))
    data[row["perturbed_offset"] + row["perturbed_length"] - 20] ^= 1
    corpus.store.put(row["perturbed_shard"], bytes(data))
    tier = load_tiers(ROOT / "tiers.toml")["enterprise"]
    with pytest.raises(CorpusError, match=f"image of record {row['record_id']} .* restore that file from a copy"):
        export(corpus, tier, today=date(2027, 1, 1), trust=TRUST)


def test_the_status_names_what_is_not_ours(folder: Path) -> None:
    corpus, settings = laundered(folder / "data"), load_settings()
    now = LATER.replace(day=1)
    found = read_status(corpus, settings, now=now, trust=TRUST)
    assert (found.live_rounds, sum(found.foreign_rounds.values())) == (1, 2)
    signatures = [finding for finding in found.findings if finding.part == "signatures"]
    assert len(signatures) == 2
    assert MALLORY.ss58_address in " ".join(finding.what for finding in signatures)
    foreign_day(corpus)
    assert read_status(Corpus(corpus.store), settings, now=now, trust=TRUST).sealed_days == 0


def test_a_manifest_with_a_bad_key_is_a_fault(tmp_path: Path) -> None:
    corpus = honest(tmp_path / "corpus")
    bad_key(corpus)
    report = audit(Corpus(corpus.store), trust=TRUST)
    assert "key '../../x' cannot be stored" in whats(report)


def proof_files(folder: Path, corpus: Corpus) -> list[str]:
    """Write a proof of the first sealed record; return the arguments that name it."""
    row = corpus.dataset(days=[TODAY]).to_table(columns=["record_id"]).column(0)[0].as_py()
    (folder / "a.proof.json").write_bytes(prove(corpus, row).to_json())
    return ["audit", "--proof", "a.proof.json"]


@pytest.mark.parametrize("forge", [stripped, rewritten])
@pytest.mark.parametrize("named", [[], ["--hotkey", OURS.ss58_address]])
def test_a_forged_proof_does_not_hold(folder: Path, forge: Callable[[Path], Corpus], named: list[str]) -> None:
    command = proof_files(folder, forge(folder / "forged"))
    printed, error = run(*command, *named, "--json")
    assert isinstance(error, AuditError)
    assert f"not by {OURS.ss58_address}" in str(error)
    assert "holds" not in printed.replace('"holds": false', "")


def test_a_proof_holds_for_those_who_name_its_validator(folder: Path) -> None:
    command = proof_files(folder, honest(folder / "data"))
    for named in (
        [],
        ["--hotkey", OURS.ss58_address],
        ["--hotkey", MALLORY.ss58_address, "--hotkey", OURS.ss58_address],
    ):
        printed, error = run(*command, *named)
        assert error is None
        assert f"signed by {OURS.ss58_address} the proof holds" in " ".join(printed.split())
    _, error = run(*command, "--hotkey", MALLORY.ss58_address)
    assert "name the validator that you trust with --hotkey" in str(error)
    # A reader without a key of his own trusts nobody before he says so.
    (folder / "perturb.toml").write_text(f'subnet.hotkey_file = "{folder / "none"}"\n')
    _, error = run(*command)
    assert "not by a trusted validator, as none is configured" in str(error)
    assert run(*command, "--hotkey", OURS.ss58_address)[1] is None
    root = json.loads((folder / "a.proof.json").read_bytes())["head"]["root"]
    assert run(*command, "--root", root)[1] is None
    assert "does not lead to root" in str(run(*command, "--root", "0" * 64)[1])


def test_a_root_that_the_log_never_had_is_named(folder: Path) -> None:
    corpus = honest(folder / "data")
    first = Log(corpus.store).newest()
    assert first is not None
    Log(corpus.store).append(NewEntry(kind="plan", key="plan", sha256="0" * 64), signer=OURS, at=first.entry.at)
    printed, error = run("audit", "--no-deep", "--root", "0x" + first.head.root.upper())
    assert error is None, "an earlier root"
    assert "the log had root" in printed
    assert run("log", "--head", "-o", "head.json")[1] is None
    assert run("audit", "--no-deep", "--head", "head.json")[1] is None
    # The log is cut behind its first entry, as an attacker would who deletes what came after.
    corpus.store.delete("log/00000001.json")
    corpus.store.delete("log/newest.json")
    assert run("audit", "--no-deep")[1] is None, "without a root from elsewhere nothing shows it"
    _, error = run("audit", "--no-deep", "--head", "head.json")
    assert isinstance(error, AuditError)
    assert re.search(
        r"the log of 1 entries never had root \w{64} \(that of head.json\): it was forked, cut or", str(error)
    )


def test_only_our_days_are_proven(folder: Path) -> None:
    corpus = rewritten(folder / "data")
    row = corpus.dataset(days=[TODAY]).to_table(columns=["record_id"]).column(0)[0].as_py()
    _, error = run("prove", row)
    assert f"does not count: it is signed by {MALLORY.ss58_address}" in str(error)


def test_the_local_network_draws_a_key_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "hotkey"
    settings = SubnetSettings(hotkey_file=file)
    assert load_trust(settings).hotkeys == frozenset(), "a reader draws no key"
    assert not file.exists()
    drawn = load_keypair(settings).ss58_address
    assert load_keypair(settings).ss58_address == drawn
    assert load_trust(settings).hotkeys == {drawn}
    assert load_keypair(SubnetSettings(hotkey_file=tmp_path / "other")).ss58_address != drawn
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]
    file.write_text("//Alice\n")
    with pytest.raises(SettingsError, match="does not hold a key; accepted: 0x and 64 hex digits") as told:
        load_keypair(settings)
    assert "Alice" not in str(told.value)


def test_a_text_that_is_no_hotkey_is_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest(folder / "data")
    _, error = run("audit", "--no-deep", "--hotkey", OURS.ss58_address[:-1] + "X")
    assert isinstance(error, PerturbError)
    assert "is not a hotkey; accepted: ss58 addresses" in str(error)
    monkeypatch.setenv("PERTURB_SUBNET__TRUSTED_VALIDATORS", json.dumps(["validator"]))
    with pytest.raises(SettingsError, match="accepted: ss58 addresses of Bittensor hotkeys"):
        load_settings()


def test_an_inserted_round_is_named_by_the_audit(tmp_path: Path) -> None:
    corpus = honest(tmp_path / "corpus")
    round_id = insert(corpus, 7, None)
    faults = [fault for fault in audit(corpus, trust=TRUST).faults if round_id in fault.where]
    assert [fault.what for fault in faults] == [f"it is signed by no one, not by {OURS.ss58_address}"]
