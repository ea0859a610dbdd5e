"""The corpus that a command works on: its argument, and how it is opened."""

from typing import Annotated, Any

import typer

Root = Annotated[
    str | None,
    typer.Argument(help="Directory or s3://bucket/prefix \\[default: PERTURB_STORE, else ./data].", show_default=False),
]


def open_corpus(path: str | None, *, may_be_empty: bool = False) -> tuple[Any, Any]:
    """Settings and corpus at `path`. Raises CorpusError where nothing was ever committed, unless it may be empty."""
    from perturb.schemas.errors import CorpusError
    from perturb.schemas.settings import load_settings
    from perturb.sinks.corpus.corpus import Corpus

    settings = load_settings(store=path)
    corpus = Corpus.open(settings)
    if not may_be_empty and not corpus.round_days() and not corpus.sealed_days():
        raise CorpusError(f"{settings.store} holds no corpus; name a store where rounds were committed")
    return settings, corpus
