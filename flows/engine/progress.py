"""A progress bar on standard error, where somebody is looking; log lines where nobody is."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

logger = logging.getLogger(__name__)


@contextmanager
def progress_bar(title: str, *, total: int | None) -> Iterator[Callable[[str], None]]:
    """Yields a function to be called with a short status after each of `total` steps (None: nobody knows how many)."""
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[status]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        step = bar.add_task(title, total=total, status="starting")
        done = 0

        def advance(message: str) -> None:
            nonlocal done
            done += 1
            bar.update(step, advance=1, status=message)
            logger.info("%s %d/%s: %s", title, done, total or "…", message)

        yield advance
