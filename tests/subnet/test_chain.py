"""The chain port, SDK-level: real decoding, preflight and quantisation over an in-memory substrate; no node."""

import asyncio
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from bittensor.balance import Balance
from bittensor.result import ChainError, ExtrinsicResult

from perturb.schemas.errors import SettingsError, SubnetError
from perturb.schemas.settings import SubnetSettings
from perturb.subnet.chain import BittensorChain, open_chain
from perturb.subnet.keys import development_keypair
from perturb.subnet.neurons import MetagraphCache, find_neurons, find_validators

ALICE, BOB, CAROL = (development_keypair(f"//{name}") for name in ("Alice", "Bob", "Carol"))
NETUID = 26


def axon(ip: str, port: int) -> dict[str, int]:
    return {"ip": int(ip_address(ip)), "port": port, "ip_type": ip_address(ip).version}


class FakeSubstrate:
    """A subnet of three neurons in memory; remembers what was submitted."""

    def __init__(self) -> None:
        self.token_symbols: dict[int, str] = {}
        self.block = 1000
        self.reads = 0
        self.down = False
        self.submitted: list[tuple[str, str, dict[str, Any]]] = []
        self.outcome = ExtrinsicResult(success=True, message="ok", extrinsic_id="1000-2")
        self.commitments: list[tuple[str, dict[str, Any]]] = []
        self.storage: dict[str, Any] = {
            "Uids": lambda netuid, hotkey: {ALICE.ss58_address: 0, BOB.ss58_address: 1}.get(hotkey),
            "CommitRevealWeightsEnabled": False,
            "WeightsSetRateLimit": 100,
            "LastUpdate": [0, 0, 0],
            "MinAllowedWeights": 1,
            "MaxWeightsLimit": 65535,
            "SubnetEpochConsensus": "Yuma",
        }
        keys = (ALICE, BOB, CAROL)
        self.graph = {
            "netuid": NETUID,
            "hotkeys": [key.ss58_address for key in keys],
            "coldkeys": [ALICE.ss58_address] * 3,
            "axons": [axon("8.8.8.8", 8091), axon("10.0.0.5", 0), axon("2606:4700:4700::1111", 9000)],
            "validator_permit": [False, True, False],
            "total_stake": [5_000_000_000, 7, 0],
            "block": 1000,
            "tempo": 360,
            "last_step": 900,
            "blocks_since_last_step": 100,
            "owner_hotkey": ALICE.ss58_address,
            "owner_coldkey": ALICE.ss58_address,
            "network_registered_at": 1,
        }

    def balance(self, rao: int, netuid: int = 0) -> Balance:
        return Balance.from_rao(rao, netuid)

    async def connect(self) -> None:
        if self.down:
            raise ConnectionRefusedError("nobody listens")

    async def close(self) -> None: ...

    async def block_number(self) -> int:
        return self.block

    async def block_hash(self, block: int | None = None) -> str:
        return f"0x{block or self.block:064x}"

    async def block_time(self) -> float:
        return 12.0

    async def query(
        self, module: str, item: str, params: list[Any] | None = None, block_hash: str | None = None
    ) -> Any:
        value = self.storage.get(item)
        return value(*params) if callable(value) else value

    async def query_map(self, module: str, item: str, params: list[Any] | None = None, block_hash: str | None = None):
        return self.commitments if item == "CommitmentOf" else []

    async def runtime_call(self, api: str, method: str, params: list[Any], block_hash: str | None = None) -> Any:
        self.reads += 1
        return {**self.graph, "block": self.block} if params[0] == NETUID else None

    async def compose(self, call: Any) -> Any:
        return call

    async def submit(self, call: Any, keypair: Any, **options: Any) -> ExtrinsicResult:
        _, function, arguments = call
        self.submitted.append((function, keypair.ss58_address, arguments))
        if function == "set_commitment":
            self.commitments = [(keypair.ss58_address, {"block": self.block, "info": unwrapped(arguments["info"])})]
        return self.outcome


def unwrapped(info: dict[str, Any]) -> dict[str, Any]:
    return {"fields": [field[0] for field in info["fields"]]}


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
    with pytest.raises(SubnetError, match="is no sha256"):
        chain.commit(BOB, "AB" * 32)


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
        2: "it is ourselves",
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
