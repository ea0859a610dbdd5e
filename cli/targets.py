"""Commands about the networks that are attacked: `targets list`, `show`, `add`, and changes of the line-up."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturb.cli.arguments import Json, Store
from perturb.cli.output import facts, say, say_json, table

if TYPE_CHECKING:
    from perturb.schemas.line_up import LineUp
    from perturb.schemas.report_card import Estimate, TargetReport

PANEL = "Harden"
targets = typer.Typer(no_args_is_help=True, help="The networks that are or were attacked, with their measurements.")


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.add_typer(targets, name="targets", rich_help_panel=PANEL)


@targets.command("list")
def list_targets(store: Store = None, json_: Json = False) -> None:
    """List the targets of the registry. The configured classifier is entered where there are none."""
    from perturb.schemas.settings import load_settings
    from perturb.sinks.targets.registry import Registry
    from perturb.tasks.lineup.in_force import read_line_up

    settings = load_settings(store=store)
    registry = Registry.open(settings)
    if not registry.names():
        from perturb.tasks.lineup.add import add_first_generation

        add_first_generation(registry, settings)
    line_up = read_line_up(settings)
    shares = {} if line_up is None else {one.target: one.share for one in line_up.shares}
    found = [registry.get(name) for name in registry.names()]
    rows = [
        [
            one.name,
            f"{shares.get(one.name, 0.0):.0%}" if line_up else None,
            one.generation,
            one.parent,
            one.architecture,
            one.sha256[:8],
        ]
        for one in found
    ]
    columns = ["name", "share", "generation", "parent", "architecture", "sha256"]
    say(table(f"targets of {settings.store}", columns, rows, whole=["name"]))
    if json_:
        say_json(
            {
                "targets": [one.model_dump(mode="json") for one in found],
                "line_up": None if line_up is None else line_up.model_dump(mode="json"),
            }
        )


@targets.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a target.", show_default=False)],
    store: Store = None,
    json_: Json = False,
) -> None:
    """Show a target's card, and load its weights to see that they are the ones it names."""
    from perturb.schemas.settings import load_settings
    from perturb.sinks.targets.registry import Registry
    from perturb.tasks.lineup.find import load_target

    settings = load_settings(store=store)
    target = Registry.open(settings).get(name)
    say(facts(f"target {name}", target.model_dump(mode="json", exclude_none=True)))
    loaded = load_target(settings, target)
    say(f"its weights load: {loaded.num_classes} classes at {loaded.height} x {loaded.width} pixels")
    if json_:
        say_json(target.model_dump(mode="json"))


@targets.command()
def add(
    file: Annotated[Path, typer.Argument(help="Weights: safetensors, or .pth with weights only.", show_default=False)],
    classifier: Annotated[str, typer.Option(help="timm name of the architecture.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name of the target, such as r18-linf1.", show_default=False)],
    parent: Annotated[str | None, typer.Option(help="The target that it was trained from.", show_default=False)] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="Text file with a class name a line, where they are not ImageNet-1k's.", show_default=False),
    ] = None,
    weights_set: Annotated[
        str | None,
        typer.Option("--set", help="Which of several state dicts in the file, such as model_ema.", show_default=False),
    ] = None,
    store: Store = None,
) -> None:
    """Enter a network's weights as a target. What does not fit the architecture is named."""
    from perturb.schemas.settings import load_settings
    from perturb.sinks.targets.registry import Registry
    from perturb.tasks.lineup.add import add_file, add_first_generation

    settings = load_settings(store=store)
    registry = Registry.open(settings)
    add_first_generation(registry, settings)
    target = add_file(
        registry,
        settings,
        file,
        architecture=classifier,
        name=name,
        parent=parent,
        classes=classes,
        weights_set=weights_set,
    )
    say(f"target {target.name} is in {settings.store}; its weights have sha256 {target.sha256}")


@targets.command()
def promote(
    name: Annotated[str, typer.Argument(help="Name of a target.", show_default=False)],
    share: Annotated[float, typer.Option(help="Its share of the challenges, above 0.")] = 0.5,
    ungated: Annotated[
        bool, typer.Option("--ungated", help="Also a target that was not measured or did not pass its gates.")
    ] = False,
    store: Store = None,
    json_: Json = False,
) -> None:
    """Put a target into the line-up: challenges are drawn for it from the next minute on.

    The others keep their proportions, and the first generation at least a quarter. The change is an entry of the log.
    """
    from perturb.schemas.settings import load_settings
    from perturb.tasks.lineup import promote as changes

    _show(changes.promote(load_settings(store=store), name, share=share, ungated=ungated), json_)


@targets.command()
def retire(
    name: Annotated[str, typer.Argument(help="Name of a target.", show_default=False)],
    store: Store = None,
    json_: Json = False,
) -> None:
    """Take a target out of the line-up. It stays in the registry, so that its records can be verified."""
    from perturb.schemas.settings import load_settings
    from perturb.tasks.lineup import promote as changes

    _show(changes.retire(load_settings(store=store), name), json_)


@targets.command()
def rollback(store: Store = None, json_: Json = False) -> None:
    """Restore the line-up before the newest change that is not undone yet."""
    from perturb.schemas.settings import load_settings
    from perturb.tasks.lineup import promote as changes

    _show(changes.rollback(load_settings(store=store)), json_)


@targets.command()
def matrix(store: Store = None, json_: Json = False) -> None:
    """Show which perturbations flip which network, and what fresh attacks take, generation after generation.

    The figures are those of each target's newest report, on photographs that it was not trained on.
    """
    from perturb.schemas.settings import load_settings
    from perturb.sinks.targets.registry import Registry
    from perturb.tasks.targets.matrix import read_matrix

    settings = load_settings(store=store)
    found = read_matrix(Registry.open(settings))
    if not found.reports:
        say("no target was measured yet; `perturb harden` and `perturb targets measure NAME` do it")
    else:
        columns = ["network", *(f"made for {name}" for name in found.made_for)]
        rows = [[name, *(_interval(row.get(other)) for other in found.made_for)] for name, row in found.flips.items()]
        say(table("held-out perturbations that flip a network, %, with 95 % intervals", columns, rows))
        attacks = list(dict.fromkeys(one.attack for report in found.reports.values() for one in report.card.fresh))
        columns = ["network", *(f"fresh {attack} at one level, %" for attack in attacks), "effort, x parent's", "gates"]
        say(table("attacks made anew", columns, [_fresh(name, one, attacks) for name, one in found.reports.items()]))
    if json_:
        say_json({"reports": {name: one.model_dump(mode="json") for name, one in found.reports.items()}})


def _interval(share: "Estimate | None") -> str | None:
    return None if share is None else f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _fresh(name: str, report: "TargetReport", attacks: list[str]) -> list[object]:
    shares = {one.attack: one.one_level for one in report.card.fresh}
    effort = report.card.effort_ratio
    gates = "passed" if report.verdict.passed else f"refused: {report.verdict.gate}"
    return [name, *(_interval(shares.get(attack)) for attack in attacks), effort and effort.value, gates]


def _show(line_up: "LineUp", json_: bool) -> None:
    rows = [[one.target, f"{one.share:.1%}", one.sha256[:12]] for one in line_up.shares]
    say(
        table(
            f"line-up {line_up.number}, after the {line_up.event} of {line_up.target}",
            ["target", "share", "weights sha256"],
            rows,
        )
    )
    if json_:
        say_json(line_up.model_dump(mode="json"))
