"""Running the playground until it is interrupted."""

import socket
from collections.abc import Callable, Sequence

import uvicorn

from perturb.playground.app import make_app
from perturb.playground.check import warm_up
from perturb.playground.session import Player
from perturb.schemas.errors import SettingsError

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def serve(
    player: Player,
    *,
    host: str,
    port: int,
    hosts: Sequence[str],
    frame_ancestors: Sequence[str],
    tell: Callable[[str], None],
) -> None:
    """Serve the page; `tell` gets its address once it answers. Raises SettingsError where it cannot listen there."""
    warm_up(player)
    listening = _listen(host, port)
    own_port = listening.getsockname()[1]
    app = make_app(player, hosts=[*_LOOPBACK, host, *hosts], frame_ancestors=frame_ancestors)
    # No access log: it would have addresses of visitors.
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)
    tell(f"http://{f'[{host}]' if ':' in host else host}:{own_port}/")
    server.run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        raise SettingsError(
            f"--host {host} --port {port} can't be listened on ({error.strerror}); name others"
        ) from error
    return listening
