"""Commands of the model track: a miner commits to a network and checks it; a validator measures all of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturb.cli.arguments import Flow, Json, Store
from perturb.cli.orchestration import runs_as_flow
from perturb.cli.output import read_file, say, say_json, styled, table

if TYPE_CHECKING:
    from perturb.schemas.model_track import TrackResult

PANEL = "Mine"
REFUSED = 11
model = typer.Typer(no_args_is_help=True, help="The model track: networks that miners hand in, measured once a day.")
Weights = Annotated[Path, typer.Argument(help="File of weights, safetensors.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.add_typer(model, name="model", rich_help_panel=PANEL)


@model.command()
def commit(
    weights: Weights,
    url: Annotated[
        str,
        typer.Option(
            "--url", help="Where the file will be, readable by anyone: https://… or http://…", show_default=False
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the commitment.")] = False,
) -> None:
    """Commit the configured hotkey to a file of weights; publish the file afterwards.

    The commitment holds a digest of the weights and the hotkey, so that nobody else can use it. Keep the file private
    until the commitment is on chain: of two equal networks the earlier commitment counts.
    """
    from perturb.miner.commitment import commit_model
    from perturb.schemas.commitment import CommitmentRefused, ModelCommitment
    from perturb.schemas.errors import SettingsError
    from perturb.schemas.settings import load_settings
    from perturb.sinks.targets.registry import is_safetensors
    from perturb.subnet.keys import load_keypair

    settings = load_settings()
    data = read_file(weights, "WEIGHTS")
    if not is_safetensors(data):
        raise SettingsError(
            f"WEIGHTS {weights} is not safetensors, which is all that validators read; convert it first"
        )
    try:
        if dry_run:
            hotkey = load_keypair(settings.subnet).ss58_address
            typer.echo(ModelCommitment.of(data, hotkey=hotkey, url=url).text())
            return
        where = commit_model(settings.subnet, data, url)
    except CommitmentRefused as error:
        raise SettingsError(f"--url: {error}") from error
    say(f"committed ({where}); publish {weights.name} at {url}, then run `perturb model check`")
    say(f"validators measure it when the commitment is {settings.model_track.age_hours:g} hours old")


@model.command()
def check(
    weights: Annotated[
        Path | None,
        typer.Argument(help="File of weights \\[default: what the own commitment names].", show_default=False),
    ] = None,
) -> None:
    """Load a network as validators would: from a file, or from the address of the own commitment.

    Exit code 11 tells that they would refuse it.
    """
    from perturb.miner.commitment import own_commitment
    from perturb.schemas.errors import SubnetError
    from perturb.schemas.settings import load_settings

    settings = load_settings()
    # Before torch is imported, which takes seconds.
    committed = own_commitment(settings.subnet) if weights is None else None
    data = None if weights is None else read_file(weights, "WEIGHTS")
    if committed is None and data is None:
        raise SubnetError("this hotkey has committed to nothing; `perturb model commit WEIGHTS --url …` does")
    say("loading the network in a process of its own")
    from perturb.tasks.model_track.check import check_committed, check_weights

    refusal = check_committed(settings, committed) if committed is not None else check_weights(settings, data or b"")
    if refusal is not None:
        say(styled((f"refused: {refusal}", "red")))
        raise typer.Exit(REFUSED)
    say(styled(("the network loads, and gives finite logits", "green")))


@model.command()
def evaluate(store: Store = None, flow: Flow = None, json_: Json = False) -> None:
    """Fetch and measure every committed network on the newest sealed days, and choose a winner.

    The result is signed in the corpus' log; `perturb weights` pays the winner. Its network enters the registry, where
    `perturb targets promote` may put it under attack.
    """
    from perturb.schemas.settings import load_settings

    if runs_as_flow(flow):
        from perturb.flows.evaluate_models import evaluate_models as evaluate_flow

        result = evaluate_flow(store=store)
    else:
        from perturb.tasks.model_track.evaluate import evaluate_models

        result = evaluate_models(load_settings(store=store), tell=say)
    _show(result, json_)


@model.command()
def result(store: Store = None, json_: Json = False) -> None:
    """Show the newest evaluation: every candidate with its score and the reason."""
    from perturb.schemas.errors import CorpusError
    from perturb.schemas.settings import load_settings
    from perturb.sinks.stores.open import open_store
    from perturb.sinks.targets.track_results import newest_result
    from perturb.subnet.trust import load_trust

    settings = load_settings(store=store)
    newest = newest_result(open_store(settings.store, settings.s3), load_trust(settings.subnet))
    if newest is None:
        raise CorpusError("no evaluation is in the log; `perturb model evaluate` makes one")
    _show(newest, json_)


def _show(result: "TrackResult", json_: bool) -> None:
    from perturb.tasks.model_track.rows import COLUMNS, rows

    title = f"model track, {result.photographs} photographs with {result.pairs} perturbed versions"
    if result.candidates:
        say(table(title, list(COLUMNS), [list(row) for row in rows(result)]))
    else:
        say("no hotkey had committed to a network")
    if result.baseline is not None:
        say(f"the line-up's best is {result.baseline.target} with {result.baseline.score.total:.3f}")
    say(f"winner: {result.winner}, target {result.target}" if result.winner else "no winner")
    if json_:
        say_json(result.model_dump(mode="json"))
