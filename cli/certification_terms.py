"""What a certification plan says, as options: written once for `certify` and `certify plan`."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from perturb.certificates.planning import PlanRequest

Classes = Annotated[
    Path | None,
    typer.Option(
        help="Names of the subject's classes, one a line, where they are not ImageNet-1k's.", show_default=False
    ),
]


def _terms(
    subject: Annotated[
        str,
        typer.Option(
            help="target:NAME of the registry, timm name, timm name with weights (resnet18=FILE), module:function of "
            "a torch module, or FILE.onnx."
        ),
    ] = "tf_efficientnet_lite0",
    pool: Annotated[
        str,
        typer.Option(help="Labelled photographs: folder:DIR, or sample[:COUNT]."),
    ] = "sample",
    n: Annotated[int, typer.Option("--n", min=1, help="Images to draw from the pool.")] = 30,
    levels: Annotated[str, typer.Option(help="Largest changes of a value, in levels of 255, with commas.")] = "1,2,4,8",
    suite: Annotated[
        str, typer.Option(help="quick: AutoAttack's apgd-ce and apgd-t; standard: with fab-t and square.")
    ] = "quick",
    claim: Annotated[
        list[str] | None,
        typer.Option(
            help="Claim to decide, such as 'robust@1>=0.30' or 'clean>=0.7'; may be repeated.", show_default=False
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="Folder of another certificate: take its pool, labels and sample, so that both can be compared.",
            show_default=False,
        ),
    ] = None,
    classes: Classes = None,
    crowd: Annotated[
        str | None,
        typer.Option(help="Store of a corpus whose records of the same photographs attack too.", show_default=False),
    ] = None,
    harm: Annotated[
        Path | None, typer.Option(help="TOML list of how bad which mistake is.", show_default=False)
    ] = None,
    valid_days: Annotated[int, typer.Option(min=1, help="Days for which the certificate is valid.")] = 365,
    provider: Annotated[
        str | None, typer.Option(help="Provider of the network, for the certificate.", show_default=False)
    ] = None,
    responsible: Annotated[
        str | None,
        typer.Option(help="Person responsible for the evaluation, for the certificate.", show_default=False),
    ] = None,
    purpose: Annotated[
        str | None,
        typer.Option(help="Intended purpose, as the provider states it, for the certificate.", show_default=False),
    ] = None,
) -> "PlanRequest":
    """Return what is asked for. Raises SettingsError for levels that are no list of whole numbers."""
    from perturb.certificates.planning import PlanRequest
    from perturb.schemas.errors import SettingsError

    try:
        chosen = tuple(int(level) for level in levels.split(","))
    except ValueError as error:
        raise SettingsError(
            f"--levels {levels!r} is no list of levels; accepted: whole numbers, such as 1,2,4,8"
        ) from error
    return PlanRequest(
        subject=subject,
        pool=pool,
        n=n,
        levels=chosen,
        suite=suite,
        claims=tuple(claim or ()),
        like=like,
        classes=classes,
        crowd=crowd,
        harm=harm,
        valid_days=valid_days,
        provider=provider,
        responsible=responsible,
        purpose=purpose,
    )


def with_terms(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a plan before its own; it takes them as one `terms`, a function that reads them.

    They are read only when the command calls it, so that a group whose subcommand runs reads nothing.
    """
    shared = inspect.signature(_terms).parameters
    own = inspect.signature(command).parameters

    @wraps(command)
    def run(**given: Any) -> None:
        read = {name: given.pop(name) for name in shared}
        command(terms=lambda: _terms(**read), **given)

    parameters = [*shared.values(), *(one for name, one in own.items() if name != "terms")]
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    )
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    del run.__wrapped__
    return run
