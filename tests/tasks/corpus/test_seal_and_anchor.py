"""Sealing puts a day's Merkle root on the chain: the real step and the SDK's client, on a chain in memory."""

from datetime import date
from pathlib import Path

import pytest
from bittensor.keyfiles import Keyfile
from bittensor.result import ChainError, ExtrinsicResult

from perturb.schemas.errors import SubnetError
from perturb.schemas.settings import Settings, load_settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.log.log import Log
from perturb.subnet.chain import BittensorChain
from perturb.tasks.corpus.seal_and_anchor import SealSummary, seal_and_anchor
from tests.support.corpora import VALIDATOR, make_corpus
from tests.support.fake_chain import BOB, NETUID, FakeSubstrate

DAYS = [date(2026, 1, 5), date(2026, 1, 6)]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSubstrate:
    fake = FakeSubstrate()
    chain = BittensorChain("finney", NETUID, substrate=fake)
    monkeypatch.setattr("perturb.tasks.corpus.seal_and_anchor.open_chain", lambda _: chain)
    monkeypatch.setenv("BTCLI_TOKEN_SYMBOLS_CACHE", str(tmp_path / "symbols.json"))
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path))
    return fake


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A validator with Bob's hotkey on a chain, and a corpus with unsealed rounds on two days."""
    Keyfile(tmp_path / "wallets" / "validator" / "hotkeys" / "default").set_keypair(BOB, encrypt=False)
    subnet = {
        "network": "finney",
        "netuid": NETUID,
        "wallet_name": "validator",
        "wallet_path": tmp_path / "wallets",
        "trusted_validators": [VALIDATOR.ss58_address],
    }
    settings = load_settings(store=str(tmp_path / "store"), subnet=subnet, seal={"reverify_fraction": 0})
    make_corpus(Corpus.open(settings).store, days=DAYS, rounds=1, miners=2, seal=False)
    return settings


def on_chain(fake: FakeSubstrate) -> str | None:
    return BittensorChain("finney", NETUID, substrate=fake).read_commitment(BOB.ss58_address)


def newest_root(settings: Settings) -> str:
    newest = Log(Corpus.open(settings).store).newest()
    assert newest is not None
    return newest.head.root


def seal(settings: Settings, day: date) -> SealSummary:
    return seal_and_anchor(settings, day=day)


def test_the_root_of_a_sealed_day_is_on_the_chain(settings: Settings, fake: FakeSubstrate) -> None:
    first = seal(settings, DAYS[0])
    assert not first.already
    assert first.extrinsic == "1000-2"
    assert on_chain(fake) == newest_root(settings)
    (manifest,) = Corpus.open(settings).manifests()
    assert manifest.merkle_root == first.merkle_root

    again = seal(settings, DAYS[0])
    assert (again.already, again.extrinsic) == (True, None)
    earlier = newest_root(settings)
    seal(settings, DAYS[1])
    assert on_chain(fake) == newest_root(settings) != earlier

    # Sealing an older day again sends the newest root where it is missing, and nothing where it is there.
    fake.commitments.clear()
    assert seal(settings, DAYS[0]).extrinsic is not None
    assert on_chain(fake) == newest_root(settings)
    assert seal(settings, DAYS[1]).extrinsic is None
    assert [signer for _, signer, _ in fake.submitted] == [BOB.ss58_address] * 3


def test_a_root_on_the_chain_that_the_log_never_had_is_named(
    settings: Settings, fake: FakeSubstrate, caplog: pytest.LogCaptureFixture
) -> None:
    seal(settings, DAYS[0])
    seal(settings, DAYS[1])
    assert "never had" not in caplog.text
    # Somebody puts an earlier state of the log back.
    store = Corpus.open(settings).store
    store.delete("log/00000001.json")
    store.delete(f"sealed/date={DAYS[1]}/manifest.json")
    seal(settings, DAYS[1])
    assert "a root that the log of 2 entries never had" in caplog.text
    assert "restore it from a copy, and run `perturb audit`" in caplog.text
    assert on_chain(fake) == newest_root(settings)


@pytest.mark.parametrize("failure", ["unreachable", "refused"])
def test_a_root_that_missed_the_chain_is_sent_by_the_next_seal(
    settings: Settings, fake: FakeSubstrate, failure: str
) -> None:
    accepting = fake.outcome
    if failure == "unreachable":
        fake.down = True
    else:
        fake.outcome = ExtrinsicResult(success=False, message="bad", error=ChainError("CommitmentSetRateLimitExceeded"))
    with pytest.raises(SubnetError, match=r"2026-01-05 is sealed, but the log's root .* is not on the chain") as told:
        seal(settings, DAYS[0])
    assert newest_root(settings) in str(told.value)
    assert "run `perturb seal --day 2026-01-05` again" in str(told.value)
    fake.down, fake.outcome = False, accepting
    fake.commitments.clear()

    sealed = seal(settings, DAYS[0])
    assert (sealed.already, sealed.extrinsic) == (True, "1000-2")
    assert on_chain(fake) == newest_root(settings)


def test_the_local_network_has_no_chain_to_write_to(settings: Settings, fake: FakeSubstrate) -> None:
    local = settings.model_copy(update={"subnet": settings.subnet.model_copy(update={"network": "local"})})
    assert seal(local, DAYS[0]).extrinsic is None
    assert not fake.submitted
