"""Text of others reaches the terminal as text, in every way that this program prints: it commands nothing there.

Tables, sentences and errors of commands are tested in tests/cli/test_output.py.
"""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from prefect.logging.formatters import PrefectFormatter
from prefect.logging.handlers import PrefectConsoleHandler

from perturb.cli.output import say_json
from perturb.flows.engine.progress import loading_progress, progress_bar
from perturb.schemas.clean_text import clean_output

HOSTILE = "cat [/photos] \x1b]0;owned\x07\x1b[2J\x9b31m\u202e\nERROR perturb: all is lost"
IN_LINE = "cat [/photos] ]0;owned[2J31m ERROR perturb: all is lost"


def commands(text: str) -> list[str]:
    """Return the characters of `text` that command a terminal."""
    return [mark for mark in text if mark != "\n" and (mark < " " or "\x7f" <= mark < "\xa0" or mark == "\u202e")]


@pytest.fixture
def _cleaned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    factory = logging.getLogRecordFactory()
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    clean_output()
    yield
    logging.setLogRecordFactory(factory)


def plain(stream: io.StringIO) -> logging.Handler:
    return logging.StreamHandler(stream)


def of_prefect(stream: io.StringIO) -> logging.Handler:
    handler = PrefectConsoleHandler(stream)
    handler.setFormatter(PrefectFormatter("%(levelname)s %(message)s"))
    return handler


@pytest.mark.usefixtures("_cleaned")
@pytest.mark.parametrize("make", [plain, of_prefect])
def test_logs_are_clean_whoever_formats_them(make: type[logging.Handler], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    for name in ("perturb.sources.folder", "someone.elses"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", [make(stream)])  # type: ignore[call-arg,arg-type]
        monkeypatch.setattr(logger, "propagate", False)
        logger.warning("skipping %s: %s", HOSTILE, ValueError(HOSTILE))
        try:
            raise OSError(HOSTILE)
        except OSError:
            logger.exception("failed")
    out = stream.getvalue()
    assert commands(out) == []
    assert f"skipping {IN_LINE}: {IN_LINE}\n" in out
    assert out.count("Traceback") == 2


@pytest.mark.usefixtures("_cleaned")
def test_progress_shows_text_and_takes_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    monkeypatch.setenv("COLUMNS", "300")
    with progress_bar(HOSTILE, total=1) as advance:
        advance(HOSTILE)
    with loading_progress() as loading, loading.part(HOSTILE) as tell:
        tell(HOSTILE)
    out = shown.getvalue()
    assert "\x1b]0;" not in out
    assert "\x1b[2J" not in out
    assert not {"\x9b", "\u202e", "\x07"} & set(out)
    assert out.count(IN_LINE) >= 4


def test_json_of_a_command_keeps_the_text_and_controls_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    say_json({"author": HOSTILE, "ü": "日本\u2028"})
    out = capsys.readouterr().out
    assert commands(out) == []
    assert out.count("\n") == 1
    assert json.loads(out) == {"author": HOSTILE, "ü": "日本\u2028"}


def test_an_unforeseen_error_ends_in_a_clean_traceback() -> None:
    program = f"import perturb.cli as c\ndef app(): raise RuntimeError({HOSTILE!r})\nc.app = app; c.main()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "RuntimeError: cat [/photos] ]0;owned[2J31m" in ended.stderr
    assert commands(ended.stderr) == []
