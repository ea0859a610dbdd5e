"""A chain in memory, behind the SDK's own `substrate=` parameter: decoding, preflight and quantisation are real."""

from ipaddress import ip_address
from typing import Any

from bittensor.balance import Balance
from bittensor.result import ExtrinsicResult

from perturb.subnet.keys import development_keypair

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
        return value(*(params or [])) if callable(value) else value

    async def query_map(
        self, module: str, item: str, params: list[Any] | None = None, block_hash: str | None = None
    ) -> list[Any]:
        if item != "CommitmentOf":
            return []
        at = self.block if block_hash is None else int(block_hash, 16)
        newest = {hotkey: record for hotkey, record in self.commitments if record["block"] <= at}
        return list(newest.items())

    async def runtime_call(self, api: str, method: str, params: list[Any], block_hash: str | None = None) -> Any:
        self.reads += 1
        return {**self.graph, "block": self.block} if params[0] == NETUID else None

    async def compose(self, call: Any) -> Any:
        return call

    async def submit(self, call: Any, keypair: Any, **options: Any) -> ExtrinsicResult:
        _, function, arguments = call
        self.submitted.append((function, keypair.ss58_address, arguments))
        if function == "set_commitment":
            self.commitments.append((keypair.ss58_address, {"block": self.block, "info": unwrapped(arguments["info"])}))
        return self.outcome


def unwrapped(info: dict[str, Any]) -> dict[str, Any]:
    return {"fields": [field[0] for field in info["fields"]]}
