"""Arguments and options that several commands share, and how the corpus that they name is opened."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perturb.schemas.settings import Settings
    from perturb.sinks.corpus.corpus import Corpus

_STORE_HELP = "Directory or s3://bucket/prefix \\[default: the `store` setting, else ./data]."

Json = Annotated[bool, typer.Option("--json", help="End with one JSON object on the last line of standard output.")]
Store = Annotated[str | None, typer.Option(help=_STORE_HELP, show_default=False)]
StorePath = Annotated[str | None, typer.Argument(metavar="STORE", help=_STORE_HELP, show_default=False)]
Day = Annotated[
    str | None, typer.Option("--day", metavar="YYYY-MM-DD", help="A production day, UTC.", show_default=False)
]
Source = Annotated[
    str | None,
    typer.Option(
        help="sample, folder:DIR, pexels or hub:NAME \\[default: the `source` setting, else sample].",
        show_default=False,
    ),
]
Flow = Annotated[
    bool | None,
    typer.Option(
        "--flow/--no-flow",
        help="Run as the Prefect flow of the same name, with its retries and artifacts "
        "\\[default: only where a Prefect server is configured].",
        show_default=False,
    ),
]


def open_corpus(path: str | None, *, may_be_empty: bool = False) -> "tuple[Settings, Corpus]":
    """Return the settings and the corpus at `path` (default: the configured store).

    Raises CorpusError where nothing was ever committed, unless it `may_be_empty`.
    """
    from perturb.schemas.errors import CorpusError
    from perturb.schemas.settings import load_settings
    from perturb.sinks.corpus.corpus import Corpus

    settings = load_settings(store=path)
    corpus = Corpus.open(settings)
    if not may_be_empty and not corpus.round_days() and corpus.newest() is None:
        raise CorpusError(f"{settings.store} holds no corpus; name a store where rounds were committed")
    return settings, corpus
