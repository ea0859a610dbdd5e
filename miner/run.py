"""One miner: load the attack, listen, publish the address, serve."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from perturb.miner.answer import attack_answer
from perturb.miner.faulty_answers import bad_answer
from perturb.miner.targets import TargetPool
from perturb.miner.validators import ValidatorList
from perturb.schemas.errors import SettingsError
from perturb.schemas.settings import Settings
from perturb.subnet.addresses import AddressRefused, parse_endpoint
from perturb.subnet.chain import Chain, open_chain
from perturb.subnet.keys import LOCAL_NETWORK, load_keypair
from perturb.subnet.neurons import find_validators

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MinerStarted:
    """A miner that begins to listen. `published` is the endpoint on chain, None on the local network."""

    hotkey: str
    attack: str
    host: str
    port: int
    published: str | None


def run_miner(
    attack: str,
    *,
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 8091,
    budget_seconds: float = 3.0,
    max_concurrent: int = 2,
    external_ip: str | None = None,
    targets: str | None = None,
    chain: Chain | None = None,
    tell: Callable[[MinerStarted], None] = lambda _: None,
) -> None:
    """Serve until SIGINT or SIGTERM. `attack` is a name of `perturb.attacks`, `module:function`, or "bad".

    The validators of `settings.subnet` may send challenges: the roster's, or the holders of a permit. On a chain,
    `external_ip` (by default `host`) and the port are published. `targets` is the registry from which other networks
    than the configured one are loaded when a task names them. `tell` is called when the miner listens. Raises
    SettingsError for an unknown attack, a port in use or an address that cannot be published; SubnetError where the
    roster or chain cannot be used; ModelError where the classifier cannot be loaded.
    """
    from perturb.miner.limits import Limits
    from perturb.miner.server import bind, create_app, serve

    if budget_seconds <= 0:
        raise SettingsError(f"--budget-seconds is {budget_seconds:g}; accepted: seconds above 0, such as 3")
    if max_concurrent < 1:
        raise SettingsError(f"--max-concurrent is {max_concurrent}; accepted: 1 or more")
    keypair = load_keypair(settings.subnet)
    with bind(host, port) as listener:
        port = listener.getsockname()[1]
        published = _publishable(settings, external_ip or host, port)
        validators = ValidatorList(partial(find_validators, settings.subnet))
        answer = (
            bad_answer()
            if attack == "bad"
            else attack_answer(
                attack,
                TargetPool(settings.classifier, registry=targets, cache=settings.cache, s3=settings.s3),
                budget_seconds=budget_seconds,
            )
        )
        if published:
            endpoint = parse_endpoint(published, allow_private=True)
            (chain or open_chain(settings.subnet)).serve(keypair, str(endpoint.ip), endpoint.port)
        limits = Limits(max_concurrent=max_concurrent, **dict(settings.miner))
        started = MinerStarted(keypair.ss58_address, attack, host, port, published)
        app = create_app(answer, keypair, validators, name=attack, limits=limits, on_ready=lambda: tell(started))
        serve(app, listener, limits=limits)


def _publishable(settings: Settings, ip: str, port: int) -> str | None:
    """Return the endpoint to publish, or None on the local network. Raises SettingsError for an unreachable address."""
    if settings.subnet.network == LOCAL_NETWORK:
        return None
    text = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    try:
        return parse_endpoint(text, allow_private=settings.subnet.allow_private_addresses).authority
    except AddressRefused as error:
        raise SettingsError(
            f"{error}; give the address under which validators reach this machine with --external-ip"
        ) from error
