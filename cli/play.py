"""The command of the playground: `play`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturb.cli.arguments import Json
from perturb.cli.output import facts, read_file, say, say_json, styled

if TYPE_CHECKING:
    from perturb.playground.session import Player
    from perturb.schemas.play import Attempt

PANEL = "Show"


def register(app: typer.Typer) -> None:
    """Add this module's command to `app`."""
    app.command(rich_help_panel=PANEL)(play)


def play(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 lets the system choose.")] = 8090,
    seconds: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds that an attack may take.")] = 3.0,
    queue: Annotated[int, typer.Option(min=0, max=1000, help="Attempts that may wait; further ones get a 503.")] = 8,
    rate: Annotated[int, typer.Option(min=1, help="Attempts of one address in a minute.")] = 30,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name by which the page may be called; may be given several times.", show_default=False),
    ] = None,
    frame_ancestors: Annotated[
        list[str] | None,
        typer.Option(
            help="A site that may show the page in a frame, such as https://huggingface.co; several may be given.",
            show_default=False,
        ),
    ] = None,
    judge: Annotated[
        bool, typer.Option("--judge/--no-judge", help="Ask the language model whether the classes differ in kind.")
    ] = True,
    check: Annotated[
        Path | None,
        typer.Option(help="Make one attempt on this photograph without a browser, and print it.", show_default=False),
    ] = None,
    json_: Json = False,
) -> None:
    """Serve a page on which people drop a photograph and watch an attack flip the network's prediction.

    Every step is the true 8-bit image, and the validator's own gates give the verdict. Nothing of an upload is kept.
    """
    from perturb.playground.player import load_player
    from perturb.playground.serve import serve
    from perturb.schemas.play import Attempt, PlayLimits
    from perturb.schemas.settings import load_settings

    limits = PlayLimits(seconds=seconds, waiting=queue, attempts_a_minute=rate)
    if check is not None:
        photograph = read_file(check, "--check")
        say("loading the networks")
        player = load_player(load_settings(), limits, judged=judge)
        _say_check(check, photograph, player, Attempt(), json_=json_)
        return
    say("loading the networks")
    player = load_player(load_settings(), limits, judged=judge)
    if host not in ("127.0.0.1", "localhost", "::1"):
        say(styled(("note", "yellow"), " without TLS and accounts: put a proxy in front that has them"))
    serve(
        player,
        host=host,
        port=port,
        hosts=allow_host or [],
        frame_ancestors=frame_ancestors or [],
        tell=lambda url: say(f"the playground is at {url} (Ctrl-C ends it)"),
    )


def _say_check(path: Path, photograph: bytes, player: "Player", attempt: "Attempt", *, json_: bool) -> None:
    from perturb.playground.check import check_attempt, warm_up

    warm_up(player)
    found = check_attempt(player, attempt, photograph)
    say(facts(f"one attempt on {path}", {name: value for name, value in found.items() if name != "score"}))
    if json_:
        say_json(found)
