"""Commands that make records: `demo`, `produce`, `miner`, `weights`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.output import Json, Store, say, say_json, table

Source = Annotated[
    str | None,
    typer.Option(help="sample, folder:DIR, pexels or hub:NAME [default: PERTURB_SOURCE, else sample].", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Adds this module's commands to `app`."""
    app.command()(demo)
    app.command()(produce)
    app.command()(miner)


def demo(
    rounds: Annotated[int, typer.Option(min=1, help="Challenges to produce.")] = 8,
    store: Store = None,
    source: Source = None,
    picture: Annotated[Path, typer.Option(help="Where to put the contact sheet.")] = Path("demo/contact-sheet.png"),
    json_: Json = False,
) -> None:
    """Run the whole line once: local miners, rounds, a sealed day, tier exports, read back by their consumers.

    Five reference miners are started on loopback ports, one of them misbehaving on purpose.
    """
    from flows.demo import run_demo

    result = run_demo(rounds=rounds, store=store, source=source, picture=picture, tell=say)
    if json_:
        say_json(result.model_dump(mode="json"))


def produce(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to run; each sends one challenge to every neuron.")] = 1,
    local_miners: Annotated[
        int, typer.Option(min=0, max=5, help="Start this many reference miners on loopback ports instead of asking the subnet.")
    ] = 0,
    store: Store = None,
    source: Source = None,
    seed: Annotated[int | None, typer.Option(help="Fix the order in which photographs are drawn.")] = None,
    json_: Json = False,
) -> None:
    """Run rounds: draw a challenge, ask the miners, verify, score, commit."""
    from flows.produce import produce as flow

    summary = flow(rounds=rounds, local_miners=local_miners, store=store, source=source, seed=seed)
    say(production_table(summary))
    if json_:
        say_json(summary.model_dump(mode="json"))


def production_table(summary: object) -> object:
    """What a run of `produce` did, as a table."""
    from flows.produce import ProduceSummary

    assert isinstance(summary, ProduceSummary)
    rows = [
        ("challenges", summary.challenges, "photographs put back: " + _counts(summary.redrawn)),
        ("responses", summary.responses, ""),
        ("accepted", summary.accepted, ""),
        ("refused", sum(summary.refused.values()), _counts(summary.refused)),
    ]
    return table(f"{summary.rounds} rounds committed to {summary.store}", ["", "count", "why"], rows)


def _counts(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1])) or "none"
