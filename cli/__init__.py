"""`perturb`: one command for each thing a person does. The commands import what they need when they run."""

import errno
import gc
import logging
import os
import resource
import sys
from io import TextIOWrapper

import typer

from perturb.cli import (
    bench,
    certificates,
    certify,
    corpus,
    deliver,
    evaluate,
    harden,
    init,
    mine,
    model,
    operate,
    play,
    produce,
    targets,
)
from perturb.cli.output import clear_progress
from perturb.schemas.clean_text import clean, clean_output

app = typer.Typer(
    name="perturb",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Production line of verified adversarial-image datasets.",
    epilog=(
        "Settings come from perturb.toml and PERTURB_* variables; `perturb doctor` shows them. "
        "Exit codes: 0 done; 1 unforeseen, or doctor found a part that is not ready; "
        "2 bad setting or argument; 3 source; 4 model; 5 store; 6 subnet; 7 corpus; 8 an audit found faults; 9 tier; "
        "10 status found something to look at; 11 a gate does not pass; 130 interrupted."
    ),
)
# In the order in which `perturb --help` shows their panels.
for module in (
    produce,
    corpus,
    deliver,
    certify,
    certificates,
    init,
    operate,
    mine,
    model,
    bench,
    targets,
    harden,
    evaluate,
    play,
):
    module.register(app)


@app.callback()
def _root(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what happens, Prefect's own log included."),
) -> None:
    level = logging.INFO if verbose or not sys.stderr.isatty() else logging.WARNING
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname).1s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("perturb").setLevel(level)
    # A failed flow would log its traceback before our one sentence says what to do.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if verbose else "CRITICAL")


def main() -> None:
    """The console script: runs a command, and turns our own errors into one sentence and an exit code."""
    _prepare_process()
    from perturb.schemas.errors import PerturbError

    # Importing torch and Prefect creates a million objects that stay. With the default thresholds the collector walks
    # over them again and again: a fifth of the time of those imports.
    gc.set_threshold(50_000, 20, 100)
    try:
        try:
            app()
        finally:
            clear_progress()
    except PerturbError as error:
        typer.secho(clean(f"perturb: {error}"), fg="red", err=True)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.secho("perturb: interrupted; what was committed stays", err=True)
        raise SystemExit(130) from None
    except OSError as error:
        if error.errno not in _MACHINE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        typer.secho(clean(f"perturb: {where}{error.strerror}; {_MACHINE[error.errno]}"), fg="red", err=True)
        raise SystemExit(2) from None
    finally:
        # The interpreter's last collections would walk over all of them, for two seconds after torch was imported.
        # DuckDB needs those collections: its bindings report every object that they do not reach as a leak.
        if "duckdb" not in sys.modules:
            gc.freeze()


# What the machine refused, and what to do about it.
_MACHINE = {
    errno.EMFILE: "raise the limit of open files to 1024 (`ulimit -n 1024`)",
    errno.ENFILE: "the machine's limit of open files is reached; close other programs",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or raise the quota",
    errno.EROFS: "name a folder on a file system that is writable",
    errno.EACCES: "allow this user to use it, or name another folder",
    errno.EPERM: "allow this user to use it, or name another folder",
}
_OPEN_FILES = 4096


def _prepare_process() -> None:
    """Make names of files UTF-8, allow many open files, print any text safely, keep loopback off proxies."""
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        # A locale such as C. Python takes the encoding of file names from it when it starts.
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    clean_output()
    from perturb.schemas.proxies import exempt_loopback

    exempt_loopback()
