"""The chain port, SDK-level: real decoding, preflight and quantisation over an in-memory substrate; no node."""

import asyncio
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest
from bittensor.result import ChainError, ExtrinsicResult

from perturb.schemas.errors import SettingsError, SubnetError
from perturb.schemas.settings import SubnetSettings
from perturb.subnet.chain import BittensorChain, open_chain
from perturb.subnet.neurons import MetagraphCache, find_neurons, find_validators
from tests.support.fake_chain import ALICE, BOB, CAROL, NETUID, FakeSubstrate, axon


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BTCLI_TOKEN_SYMBOLS_CACHE", str(tmp_path / "symbols.json"))
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path))


@pytest.fixture
def fake() -> FakeSubstrate:
    return FakeSubstrate()


@pytest.fixture
def chain(fake: FakeSubstrate) -> BittensorChain:
    return BittensorChain("finney", NETUID, substrate=fake)


def test_the_metagraph_becomes_neurons(chain: BittensorChain) -> None:
    graph = chain.metagraph()
    assert graph is not None
    assert graph.block == 1000
    assert [neuron.endpoint for neuron in graph.neurons] == [
        "8.8.8.8:8091",
        "10.0.0.5:0",
        "[2606:4700:4700::1111]:9000",
    ]
    assert [neuron.validator_permit for neuron in graph.neurons] == [False, True, False]
    assert graph.neurons[0].stake == pytest.approx(5.0)


def test_an_unmoved_head_is_not_read_again(chain: BittensorChain, fake: FakeSubstrate) -> None:
    assert chain.metagraph(newer_than=1000) is None
    fake.block = 1001
    assert chain.metagraph(newer_than=1000) is not None
    assert fake.reads == 1


def test_a_subnet_that_is_not_there_is_named(fake: FakeSubstrate) -> None:
    with pytest.raises(SubnetError, match="netuid 99 is not on network 'finney'"):
        BittensorChain("finney", 99, substrate=fake).metagraph()


def test_weights_are_quantised_and_signed_by_the_hotkey(chain: BittensorChain, fake: FakeSubstrate) -> None:
    assert chain.set_weights(BOB, {0: 0.7, 2: 0.3}) == "1000-2"
    ((function, signer, arguments),) = fake.submitted
    assert (function, signer) == ("set_mechanism_weights", BOB.ss58_address)
    assert arguments["dests"] == [0, 2]
    assert arguments["weights"][0] == 65535
    assert arguments["weights"][1] == pytest.approx(65535 * 3 / 7, abs=1)


def test_weights_are_sealed_where_the_subnet_wants_it(chain: BittensorChain, fake: FakeSubstrate) -> None:
    epochs = {"Tempo": 360, "RevealPeriodEpochs": 1, "LastEpochBlock": 900, "SubnetEpochIndex": 3}
    fake.storage |= {"CommitRevealWeightsEnabled": True, "PendingEpochAt": 0, "BlocksSinceLastStep": 100} | epochs
    chain.set_weights(BOB, {0: 0.7, 2: 0.3})
    ((function, _, arguments),) = fake.submitted
    assert function == "commit_timelocked_mechanism_weights"
    assert "weights" not in arguments
    assert arguments["reveal_round"] > 0


def test_the_chains_own_reason_is_passed_on(chain: BittensorChain, fake: FakeSubstrate) -> None:
    with pytest.raises(SubnetError, match="is not registered on netuid 26"):
        chain.set_weights(CAROL, {0: 1.0})
    fake.storage["LastUpdate"] = [0, 990, 0]
    with pytest.raises(SubnetError, match="rate limit is 100 blocks"):
        chain.set_weights(BOB, {0: 1.0})
    fake.storage["LastUpdate"] = [0, 0, 0]
    fake.outcome = ExtrinsicResult(success=False, message="bad", error=ChainError("NotEnoughStakeToSetWeights"))
    with pytest.raises(SubnetError, match="NotEnoughStakeToSetWeights"):
        chain.set_weights(BOB, {0: 1.0})


def test_an_endpoint_is_published(chain: BittensorChain, fake: FakeSubstrate) -> None:
    chain.serve(ALICE, "8.8.4.4", 8091)
    ((function, signer, arguments),) = fake.submitted
    assert (function, signer) == ("serve_axon", ALICE.ss58_address)
    assert (arguments["ip"], arguments["port"]) == (int(ip_address("8.8.4.4")), 8091)


def test_a_commitment_reads_back(chain: BittensorChain) -> None:
    digest = "ab" * 32
    assert chain.read_commitment(BOB.ss58_address) is None
    chain.commit(BOB, digest)
    assert chain.read_commitment(BOB.ss58_address) == digest
    with pytest.raises(SubnetError, match="is not a sha256"):
        chain.commit(BOB, "AB" * 32)


def test_texts_are_read_as_they_were(chain: BittensorChain, fake: FakeSubstrate) -> None:
    """What is committed later, a digest, and a sealed payload are not among the texts of a block."""
    for block, key, text in ((1000, ALICE, "one"), (1005, CAROL, "x" * 128), (1010, ALICE, "two")):
        fake.block = block
        chain.commit_text(key, text)
    chain.commit(BOB, "ab" * 32)
    assert chain.head() == 1010
    assert [(one.hotkey, one.text, one.at) for one in chain.read_texts(1009)] == [
        (CAROL.ss58_address, "x" * 128, 1005),
        (ALICE.ss58_address, "one", 1000),
    ]
    assert {one.text for one in chain.read_texts(1010)} == {"two", "x" * 128}
    with pytest.raises(SubnetError, match="129 bytes can't be committed"):
        chain.commit_text(ALICE, "x" * 129)


def test_it_works_inside_a_running_loop(chain: BittensorChain) -> None:
    async def inside() -> object:
        return chain.metagraph()

    assert asyncio.run(inside()) is not None


def test_an_unreachable_endpoint_ends_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    chain = BittensorChain(f"ws://127.0.0.1:{port}", NETUID, timeout=20)
    with pytest.raises(SubnetError, match=f"ws://127.0.0.1:{port}"):
        chain.metagraph()


def test_a_silent_endpoint_ends_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        chain = BittensorChain(f"ws://127.0.0.1:{listener.getsockname()[1]}", NETUID, timeout=0.5)
        with pytest.raises(SubnetError, match=r"no answer within 0\.5 s|could not read"):
            chain.metagraph()


def test_the_local_network_has_no_chain() -> None:
    with pytest.raises(SubnetError, match="'local', which has no chain"):
        open_chain(SubnetSettings(network="local"))


def test_neurons_of_a_chain_are_those_that_can_be_asked(chain: BittensorChain) -> None:
    settings = SubnetSettings(network="finney")
    found = find_neurons(settings, own_hotkey=CAROL.ss58_address, cache=MetagraphCache(chain))
    assert (found.block, [neuron.uid for neuron in found.neurons]) == (1000, [0])
    assert {skip.uid: skip.reason.partition(":")[0] for skip in found.skipped} == {
        1: "endpoint '10.0.0.5",
        2: "it is our own neuron",
    }
    assert find_validators(settings, cache=MetagraphCache(chain)) == {BOB.ss58_address}


def test_nobody_to_ask_is_an_error_that_says_why(chain: BittensorChain, fake: FakeSubstrate) -> None:
    fake.graph["axons"] = [axon("0.0.0.0", 0), axon("0.0.0.0", 0), axon("192.168.1.1", 80)]
    with pytest.raises(SubnetError, match=r"no neuron to ask \(.*it serves no endpoint.*\)"):
        find_neurons(SubnetSettings(network="finney"), own_hotkey="", cache=MetagraphCache(chain))


def test_the_neurons_outlive_a_chain_that_is_away(
    chain: BittensorChain, fake: FakeSubstrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("perturb.subnet.neurons.time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    cache = MetagraphCache(chain, refresh_blocks=25)

    def blocks() -> int:
        return cache.current().block

    now[0] = 5.0
    assert (blocks(), fake.reads) == (1000, 1)
    fake.block = 1030
    now[0] = 200.0
    assert (blocks(), fake.reads) == (1000, 1)  # 16 blocks old: young enough.
    now[0] = 400.0
    assert (blocks(), fake.reads) == (1030, 2)
    fake.down = True
    now[0] = 800.0
    assert (blocks(), fake.reads) == (1030, 2)
    now[0] = 100_000.0
    with pytest.raises(SubnetError, match="nobody listens"):
        blocks()
    fake.down = False
    assert blocks() == 1030


def test_a_chain_needs_a_wallet() -> None:
    from perturb.subnet.keys import load_keypair

    with pytest.raises(SettingsError, match=r"subnet\.wallet_name is not set"):
        load_keypair(SubnetSettings(network="finney"))
