"""Commands that make records: `demo`, `produce`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturb.cli.arguments import Json, Source, Store
from perturb.cli.output import say, say_json, styled, table
from perturb.schemas.clean_text import clean

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from perturb.flows.demo import Exported
    from perturb.flows.produce import ProduceSummary

PANEL = "Produce"


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    for command in (demo, produce):
        app.command(rich_help_panel=PANEL)(command)


def demo(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to produce; each has one challenge.")] = 8,
    store: Store = None,
    source: Source = None,
    picture: Annotated[Path, typer.Option(help="PNG file for the contact sheet.")] = Path("demo/contact-sheet.png"),
    json_: Json = False,
) -> None:
    """Run every step once: rounds with local miners, seal, tier exports, read back by subscribers' libraries, audit,
    a hardened network with its report, and robustness certificates of both networks.

    Five reference miners are started on loopback ports; one of them answers wrongly on purpose.
    """
    from perturb.flows.engine.prefect_server import start_server

    # The server starts while the next line imports torch and the rest.
    server = start_server()
    from perturb.cli.certification import comparison_table
    from perturb.cli.harden import show_report
    from perturb.flows.demo import run_demo

    result = run_demo(server, rounds=rounds, store=store, source=source, picture=picture, tell=_say_marked_up)
    say(production_table(result.produced))
    for exported in result.exports:
        _say_export(exported)
    found = f"the audit of the corpus found no faults: {result.audited_records} records; the picture is "
    say(styled(found, (str(result.picture), "bold")))
    if result.hardened:
        show_report(result.hardened.report)
        say(
            f"{result.hardened.target} is a network trained on what the miners found: only if every gate passes would "
            f"it be attacked next, and {result.hardened.report.photographs} photographs rarely prove that it learned"
        )
    if result.certified:
        if result.certified.comparison:
            say(comparison_table(result.certified.comparison))
        networks = "both networks" if result.certified.hardened else "the classifier"
        say(styled(f"the certificate of {networks} holds; the page is ", (str(result.certified.page), "bold")))
    if json_:
        say_json(result.model_dump(mode="json"))


def produce(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to run; each sends one challenge to every neuron.")] = 1,
    continuous: Annotated[bool, typer.Option("--continuous", help="Run until SIGTERM or Ctrl-C.")] = False,
    local_miners: Annotated[
        int,
        typer.Option(
            min=0, max=5, help="Ask this many reference miners, started on loopback ports, instead of the subnet."
        ),
    ] = 0,
    store: Store = None,
    source: Source = None,
    seed: Annotated[int | None, typer.Option(help="Fix the order in which photographs are drawn.")] = None,
    json_: Json = False,
) -> None:
    """Run rounds: draw a challenge, ask the miners, verify, score, commit.

    This is a Prefect flow; without a configured server it starts a temporary one. SIGTERM or Ctrl-C ends the run
    cleanly: a round whose answers have arrived is committed, the one being answered is abandoned.
    """
    from perturb.flows.engine.prefect_server import start_server

    # The server starts while the next line imports torch and the rest.
    server = start_server()
    from perturb.flows.produce import prepared_produce

    with prepared_produce(server, local_miners=local_miners, store=store, source=source, seed=seed) as run:
        summary = run(rounds=rounds, continuous=continuous)
    say(production_table(summary))
    if json_:
        say_json(summary.model_dump(mode="json"))
    if summary.stopped and not continuous:
        raise typer.Exit(130)


def _say_export(exported: "Exported") -> None:
    back, proof = exported.read_back, exported.read_back.proof
    if proof is None:
        nothing = f": no records yet, so there is nothing to read back from {exported.path}"
        say(styled("tier ", (exported.tier, "bold"), nothing))
        return
    readers = ", ".join(f"{reader} {count}" for reader, count in back.records.items())
    labels = f"{proof.clean_label!r} -> {proof.perturbed_label!r}"
    sample = f"  sample {proof.sample_id} recomputed from its bytes: L-inf {proof.linf_levels}/255, {labels}: "
    say(styled("tier ", (exported.tier, "bold"), f": {exported.records} records in {exported.path}"))
    say(f"  read back: {readers}")
    say(styled(sample, ("holds", "green") if back.holds else ("DOES NOT HOLD", "red")))


def _say_marked_up(part: "RenderableType") -> None:
    """Print what the demo tells of itself: text with markup of its own."""
    from rich.text import Text

    say(Text.from_markup(clean(part)) if isinstance(part, str) else part)


def production_table(summary: "ProduceSummary") -> "Table":
    """Return what a run of `produce` did, as a table."""
    rows = [
        ("challenges", summary.challenges, "photographs put back: " + _counts(summary.redrawn)),
        ("responses", summary.responses, ""),
        ("accepted", summary.accepted, ""),
        ("refused", sum(summary.refused.values()), _counts(summary.refused)),
    ]
    return table(f"{summary.rounds} rounds committed to {summary.store}", ["", "count", "why"], rows)


def _counts(reasons: dict[str, int]) -> str:
    return (
        ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1])) or "none"
    )
