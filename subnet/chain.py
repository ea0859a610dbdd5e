"""The chain, as far as this project needs it: nine methods, and a thin adapter from them to `bittensor.Client`.

The tests run the adapter on an in-memory fake, through the SDK's public `substrate=` argument. Decoding, preflight
checks and weight quantisation are the SDK's own there; SCALE encoding, signing and inclusion are not exercised. The
adapter was not tried on mainnet.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from perturb.schemas.commitment import MAX_BYTES, Committed
from perturb.schemas.errors import SubnetError
from perturb.schemas.neuron import Neuron
from perturb.schemas.settings import SubnetSettings
from perturb.subnet.keys import LOCAL_NETWORK, Keypair

if TYPE_CHECKING:
    import bittensor

T = TypeVar("T")


@dataclass(frozen=True)
class Metagraph:
    """All neurons of the subnet at one block. A neuron without an endpoint has an empty `endpoint`."""

    block: int
    neurons: tuple[Neuron, ...]


class Chain(Protocol):
    """The operations of a chain that the pipeline uses. Every method raises SubnetError with the chain's own reason."""

    def metagraph(self, *, newer_than: int | None = None) -> Metagraph | None:
        """Return the subnet at the chain's head, or None while the head has not passed block `newer_than`."""

    def serve(self, keypair: Keypair, ip: str, port: int) -> None:
        """Publish the endpoint of `keypair`'s hotkey."""

    def set_weights(self, keypair: Keypair, weights: Mapping[int, float]) -> str:
        """Submit weights by uid, plain or commit-reveal as the subnet requires. Return the extrinsic's id."""

    def commit(self, keypair: Keypair, sha256: str) -> str:
        """Put a digest (64 hex digits) on chain under `keypair`'s hotkey. Return the extrinsic's id."""

    def beacon_signature(self, number: int) -> str | None:
        """Return the signature of a stored round of the random beacon (96 hex digits), or None where it has none."""

    def read_commitment(self, hotkey: str) -> str | None:
        """Return the digest that `hotkey` committed last (64 hex digits), or None where it has not committed any."""

    def commit_text(self, keypair: Keypair, text: str) -> str:
        """Put a text of 1 to 128 bytes on chain under `keypair`'s hotkey, in place of what it committed before."""

    def head(self) -> int:
        """Return the number of the newest block."""

    def read_texts(self, block: int) -> list[Committed]:
        """Return what all hotkeys of the subnet had committed to as readable text at `block`."""


class BittensorChain:
    """`Chain` on a subtensor endpoint.

    Each call opens a connection of its own, because calls are minutes apart and idle connections are closed.
    `substrate` replaces the RPC connection by any `bittensor.Substrate`. `timeout` is the limit of a call, in seconds.
    """

    def __init__(
        self, network: str, netuid: int, *, substrate: "bittensor.Substrate | None" = None, timeout: float = 120.0
    ):
        self.network = network
        self.netuid = netuid
        self._substrate = substrate
        self._timeout = timeout

    def metagraph(self, *, newer_than: int | None = None) -> Metagraph | None:
        async def read(client: "bittensor.Client") -> Metagraph | None:
            if newer_than is not None and await client.block() <= newer_than:
                return None
            graph = await client.subnets.metagraph(self.netuid, commitments=False)
            if graph is None:
                raise SubnetError(f"netuid {self.netuid} is not on network {self.network!r}; correct subnet.netuid")
            rows = tuple(
                Neuron(
                    uid=row.uid,
                    hotkey=row.hotkey,
                    coldkey=row.coldkey,
                    endpoint=row.axon or "",
                    stake=float(row.total_stake.amount),
                    validator_permit=row.validator_permit,
                )
                for row in graph
            )
            return Metagraph(block=graph.block, neurons=rows)

        return self._run("read the metagraph", read)

    def serve(self, keypair: Keypair, ip: str, port: int) -> None:
        import bittensor

        intent = bittensor.ServeAxon(netuid=self.netuid, ip=ip, port=port)
        self._submit(f"publish {ip}:{port}", lambda client: client.execute(intent, keypair))

    def set_weights(self, keypair: Keypair, weights: Mapping[int, float]) -> str:
        import bittensor

        intent = bittensor.SetWeights(netuid=self.netuid, uids=list(weights), weights=list(weights.values()))
        return self._submit("set weights", lambda client: client.execute(intent, keypair))

    def commit(self, keypair: Keypair, sha256: str) -> str:
        import bittensor

        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise SubnetError(f"{sha256!r} is not a sha256; accepted: 64 lowercase hex digits")
        info = {"fields": [[{"Sha256": f"0x{sha256}"}]]}
        call = bittensor.calls.Commitments.set_commitment(netuid=self.netuid, info=info)

        return self._submit("commit a digest", lambda client: client.submit_call(call, keypair, signer="hotkey"))

    def read_commitment(self, hotkey: str) -> str | None:
        async def read(client: "bittensor.Client") -> str | None:
            commitment = (await client.subnets.commitments(self.netuid))[hotkey]
            for line in commitment.data.splitlines() if commitment else ():
                kind, _, digest = line.partition(":0x")
                if kind == "sha256":
                    return str(digest)
            return None

        return self._run("read a commitment", read)

    def commit_text(self, keypair: Keypair, text: str) -> str:
        import bittensor

        data = text.encode()
        if not 0 < len(data) <= MAX_BYTES:
            raise SubnetError(f"a text of {len(data)} bytes can't be committed; accepted: 1 to {MAX_BYTES} bytes")
        info = {"fields": [[{f"Raw{len(data)}": f"0x{data.hex()}"}]]}
        call = bittensor.calls.Commitments.set_commitment(netuid=self.netuid, info=info)

        return self._submit("commit a text", lambda client: client.submit_call(call, keypair, signer="hotkey"))

    def head(self) -> int:
        async def read(client: "bittensor.Client") -> int:
            return int(await client.block())

        return self._run("read the newest block", read)

    def read_texts(self, block: int) -> list[Committed]:
        async def read(client: "bittensor.Client") -> list[Committed]:
            # The state of an old block is an archive node's, which the SDK asks where the first one lacks it.
            found = await client.subnets.commitments(self.netuid, block=block)
            return [
                Committed(hotkey=one.hotkey, text=one.data, at=one.block)
                for one in found.values()
                if one.status == "plain" and _is_text(one.fields)
            ]

        return self._run(f"read the commitments of block {block}", read)

    def beacon_signature(self, number: int) -> str | None:
        """Return the signature of a round of drand's quicknet that the chain stores, 96 hex digits; None without it."""

        async def read(client: "bittensor.Client") -> str | None:
            pulse = await client.query(("Drand", "Pulses"), [number])
            found = pulse.get("signature") if isinstance(pulse, dict) else None
            if isinstance(found, list | tuple | bytes):
                return bytes(found).hex()
            return found.removeprefix("0x") if isinstance(found, str) else None

        return self._run("read the beacon", read)

    def _submit(self, what: str, step: "Callable[[bittensor.Client], Awaitable[Any]]") -> str:
        async def write(client: "bittensor.Client") -> str:
            result = (await step(client)).raise_for_failure()
            return str(result.extrinsic_id or result.block_hash or result.message)

        return self._run(what, write)

    def _run(self, what: str, step: "Callable[[bittensor.Client], Awaitable[T]]") -> T:
        import bittensor

        async def call() -> T:
            async with asyncio.timeout(self._timeout), self._client() as client:
                return await step(client)

        where = f"chain {self.network!r} (netuid {self.netuid})"
        try:
            # A thread and an event loop of its own, so that callers inside a running loop may use this too.
            with ThreadPoolExecutor(1, thread_name_prefix="chain") as thread:
                return thread.submit(asyncio.run, call()).result()
        except TimeoutError as error:
            raise SubnetError(f"{where}: no answer within {self._timeout:g} s ({what}); try again") from error
        except (bittensor.BittensorError, OSError, ValueError) as error:
            raise SubnetError(
                f"{where} could not {what}: {error}; check subnet.network and the registration"
            ) from error

    def _client(self) -> "bittensor.Client":
        import bittensor

        return bittensor.Client(self.network, substrate=self._substrate)


def _is_text(fields: list[Any]) -> bool:
    """Return whether a commitment has bytes in the clear, and not digests only."""
    return any(name.startswith("Raw") for entry in fields if isinstance(entry, dict) for name in entry)


def open_chain(settings: SubnetSettings) -> Chain:
    """Return the chain that `settings` name. Raises SubnetError on the local network, which has no chain."""
    if settings.network == LOCAL_NETWORK:
        raise SubnetError(
            "subnet.network is 'local', which has no chain; accepted for this: 'finney', 'test' or a ws:// endpoint"
        )
    return BittensorChain(settings.network, settings.netuid)
