"""Progress on standard error: bars and live rows on a terminal, log lines elsewhere."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from perturb.schemas.clean_text import in_line

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]
"""Receives a short state of the work, such as "converting weights 40 %"."""


@contextmanager
def progress_bar(title: str, *, total: int | None) -> Iterator[Tell]:
    """Yield a function to call with a short status after each of `total` steps; None for an unknown number."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[status]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        step = bar.add_task(in_line(title), total=total, status="starting")
        done = 0

        def advance(message: str) -> None:
            nonlocal done
            done += 1
            bar.update(step, advance=1, status=in_line(message))
            logger.info("%s %d/%s: %s", title, done, total or "…", message)

        yield advance


class LoadingPart:
    """One row of `Loading`: a name and a state. Its methods may be called in any thread."""

    def __init__(self, name: str, rows: Progress):
        self._name, self._rows = name, rows
        self._row = rows.add_task(in_line(name), total=1, state="loading")
        logger.info("%s: loading", name)

    def tell(self, state: str) -> None:
        """Show `state`."""
        self._rows.update(self._row, state=in_line(state))
        logger.info("%s: %s", self._name, state)

    def ready(self) -> None:
        """Show that the part is loaded."""
        self._rows.update(self._row, completed=1, state="ready")
        logger.info("%s: ready", self._name)


class Loading:
    """Shows the parts that are being loaded, each with what it does at present."""

    def __init__(self, rows: Progress):
        self._rows = rows

    def begin(self, name: str) -> LoadingPart:
        """Show a new part, which the caller declares ready."""
        return LoadingPart(name, self._rows)

    @contextmanager
    def part(self, name: str) -> Iterator[Tell]:
        """Show a part while the block lasts, then that it is ready; yield the function that shows its state."""
        begun = self.begin(name)
        yield begun.tell
        begun.ready()


@contextmanager
def loading_progress() -> Iterator[Loading]:
    """Yield what shows the parts that are loaded while the block lasts."""
    columns = (
        SpinnerColumn(finished_text="✓"),
        *(TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[state]}")),
    )
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty()) as rows:
        yield Loading(rows)
