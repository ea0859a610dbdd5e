"""Commands that make records: `demo`, `produce`, `miner`, `weights`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturb.cli.output import Json, Store, say, say_json, table

if TYPE_CHECKING:
    from perturb.flows.demo import Exported
    from perturb.flows.produce import ProduceSummary

Source = Annotated[
    str | None,
    typer.Option(
        help="sample, folder:DIR, pexels or hub:NAME \\[default: PERTURB_SOURCE, else sample].", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    """Adds this module's commands to `app`."""
    app.command()(demo)
    app.command()(produce)
    app.command()(miner)
    app.command()(weights)


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
    from perturb.flows.demo import run_demo

    result = run_demo(rounds=rounds, store=store, source=source, picture=picture, tell=say)
    say(production_table(result.produced))
    for exported in result.exports:
        say(_export_lines(exported))
    say(f"the corpus audits clean: {result.audited_records} records; the picture is [bold]{result.picture}[/]")
    if json_:
        say_json(result.model_dump(mode="json"))


def produce(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to run; each sends one challenge to every neuron.")] = 1,
    continuous: Annotated[bool, typer.Option("--continuous", help="Go on until SIGTERM or Ctrl-C.")] = False,
    local_miners: Annotated[
        int,
        typer.Option(
            min=0, max=5, help="Start this many reference miners on loopback ports instead of asking the subnet."
        ),
    ] = 0,
    store: Store = None,
    source: Source = None,
    seed: Annotated[int | None, typer.Option(help="Fix the order in which photographs are drawn.")] = None,
    json_: Json = False,
) -> None:
    """Run rounds: draw a challenge, ask the miners, verify, score, commit.

    SIGTERM or Ctrl-C ends it cleanly: the round that was answered is committed, the one being answered is given up.
    """
    from perturb.flows.engine.prefect_server import check_server
    from perturb.flows.produce import produce as flow

    check_server()
    summary = flow(
        rounds=rounds, continuous=continuous, local_miners=local_miners, store=store, source=source, seed=seed
    )
    say(production_table(summary))
    if json_:
        say_json(summary.model_dump(mode="json"))
    if summary.stopped and not continuous:
        raise typer.Exit(130)


def miner(
    attack: Annotated[
        str, typer.Option(help="pgd, fgsm, mi-fgsm, grid, or your own as module:function; 'bad' misbehaves.")
    ] = "grid",
    budget_seconds: Annotated[float, typer.Option(help="Time an attack may take for one challenge.")] = 3.0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 lets the system choose.")] = 8091,
    max_concurrent: Annotated[int, typer.Option(help="Challenges worked on at once; more get a polite 503.")] = 2,
    external_ip: Annotated[
        str | None, typer.Option(help="Address to publish on chain, where it isn't --host.", show_default=False)
    ] = None,
) -> None:
    """Answer challenges until interrupted. The key and the validators that may ask come from the subnet settings."""
    from perturb.miner.run import MinerStarted, run_miner
    from perturb.schemas.settings import load_settings

    def tell(started: MinerStarted) -> None:
        where = f"published as {started.published}" if started.published else "on the local network"
        say(f"{started.attack} miner {started.hotkey} listens on {started.host}:{started.port}, {where}")

    run_miner(
        attack,
        settings=load_settings(),
        host=host,
        port=port,
        budget_seconds=budget_seconds,
        max_concurrent=max_concurrent,
        external_ip=external_ip,
        tell=tell,
    )


def weights(
    policy: Annotated[str, typer.Option(help="proportional or winner_takes_most.")] = "winner_takes_most",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the table, and submit nothing.")] = False,
    store: Store = None,
    json_: Json = False,
) -> None:
    """Work out weights from the miners' history in the corpus and, on a chain with a wallet, submit them."""
    from perturb.flows.engine.prefect_server import check_server
    from perturb.flows.weights import weights as flow

    check_server()
    done = flow(store=store, policy=policy, dry_run=dry_run)
    columns = ["uid", "miner", "processed", "accepted", "average", "weight", "why not"]
    rows = [tuple(row.values()) for row in done.rows]
    say(table(f"weights under {done.policy}", columns, rows))
    say(f"submitted as {done.extrinsic}" if done.extrinsic else f"not submitted: {done.reason}")
    if json_:
        say_json(done.model_dump(mode="json"))


def _export_lines(exported: "Exported") -> str:
    back, proof = exported.read_back, exported.read_back.proof
    if proof is None:
        return f"tier [bold]{exported.tier}[/]: no records yet, so there is nothing to read back from {exported.path}"
    readers = ", ".join(f"{reader} {count}" for reader, count in back.records.items())
    verdict = "[green]holds[/]" if back.holds else "[red]DOES NOT HOLD[/]"
    return (
        f"tier [bold]{exported.tier}[/]: {exported.records} records in {exported.path}\n"
        f"  read back: {readers}\n"
        f"  sample {proof.sample_id} recomputed from its bytes: L-inf {proof.linf_levels}/255, "
        f"{proof.clean_label!r} -> {proof.perturbed_label!r}: {verdict}"
    )


def production_table(summary: "ProduceSummary") -> Any:
    """What a run of `produce` did, as a table."""
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
