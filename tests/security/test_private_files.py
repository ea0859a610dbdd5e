"""Secrets, identities, logs and databases are readable by the operator only, and no planted link is written through."""

import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from perturb import flows
from perturb.cli import deliver
from perturb.cli.output import write_file
from perturb.flows.engine import supervisor
from perturb.schemas.errors import SettingsError
from perturb.schemas.status import Status
from perturb.sinks.report.openmetrics import write_metrics
from perturb.sinks.report.replace_file import replace_file
from perturb.sinks.stores.base import Store
from perturb.sinks.stores.directory import DirectoryStore
from perturb.tasks.export.operator_state import KEY_OBJECT, pseudonym_key
from perturb.tasks.export.share import Share


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) & 0o777


def create(store: Store, key: str) -> None:
    with store.create(key) as writer:
        writer.write(b"x")


WAYS: list[Callable[[Store, str], object]] = [
    lambda store, key: store.put_new(key, b"x"),
    lambda store, key: store.put(key, b"x"),
    create,
]


@pytest.mark.parametrize("write", WAYS)
def test_what_identifies_miners_is_closed_in_every_store(tmp_path: Path, write: Callable[[Store, str], object]) -> None:
    own = tmp_path / "above" / "data"
    pseudonym_key(DirectoryStore(own), None)
    assert (rights(own), rights(own / "operator"), rights(own / KEY_OBJECT)) == (0o700, 0o700, 0o600)

    opened = tmp_path / "opened"
    opened.mkdir(mode=0o755)
    for key in ("operator/tiers/research.json", "rounds/x.bin"):
        write(DirectoryStore(opened), key)
    assert [rights(opened / name) for name in ("", "operator", "operator/tiers")] == [0o755, 0o700, 0o700]
    assert rights(opened / "operator/tiers/research.json") == 0o600
    assert (rights(opened / "rounds"), rights(opened / "rounds/x.bin")) == (0o755, 0o644)


@pytest.mark.parametrize("write", WAYS)
def test_writers_of_a_shared_folder_share_the_key_and_others_do_not(
    tmp_path: Path, write: Callable[[Store, str], object]
) -> None:
    os.umask(0o002)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2775)
    write(DirectoryStore(shared), KEY_OBJECT)
    assert (rights(shared), rights(shared / "operator"), rights(shared / KEY_OBJECT)) == (0o775, 0o770, 0o660)


def test_links_of_a_share_are_private_and_never_written_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Share("research", "1.0.0", None, datetime.now(UTC), ())
    monkeypatch.setattr("perturb.tasks.export.share.share", lambda *_, **__: made)
    (tmp_path / "research.links.txt").write_text("of an earlier share, readable by others")
    deliver.share("research", output=tmp_path / "research.links.json", store=str(tmp_path / "data"))
    written = sorted(tmp_path.glob("research.links.*"))
    assert [path.suffix for path in written] == [".aria2", ".curl", ".json", ".sha256", ".txt"]
    assert {rights(path) for path in written} == {0o600}

    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "x.proof.json").symlink_to(victim)
    with pytest.raises(SettingsError, match=r"--output .*x\.proof\.json is a link, which is not followed"):
        write_file(tmp_path / "x.proof.json", b"{}", "--output")
    assert victim.read_text() == "precious"


def test_output_still_goes_to_devices(capfd: pytest.CaptureFixture[str]) -> None:
    write_file(Path("/dev/stdout"), b"a proof\n", "--output")
    assert capfd.readouterr().out == "a proof\n"


def test_metrics_and_pages_in_a_shared_folder_overwrite_no_other_file(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    for name in ("perturb.prom", f".perturb.prom.{os.getpid()}", f"perturb.prom.{os.getpid()}", "status.html"):
        (shared / name).symlink_to(victim)
    os.umask(0o077)
    write_metrics(shared / "perturb.prom", Status.model_construct(**EMPTY))
    replace_file(shared / "status.html", b"<html>")
    assert victim.read_text() == "precious"
    assert not (shared / "perturb.prom").is_symlink()
    assert not (shared / "status.html").is_symlink()
    assert rights(shared / "perturb.prom") == 0o644, "the collector is another user"
    assert rights(shared / "status.html") == 0o600


# A status before the first round.
EMPTY = dict.fromkeys(Status.model_fields) | {
    "at": datetime.now(UTC), "refused": {}, "exports": (), "unsealed_days": (), "findings": ()
}  # fmt: skip


def test_the_home_of_prefect_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_HOME", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PERTURB_CACHE_DIR", str(tmp_path / "cache"))
    flows._choose_prefect_home()
    assert rights(tmp_path / "cache/prefect") == 0o700


def test_logs_and_the_database_of_the_server_are_private_and_the_corpus_has_the_usual_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_command", lambda arguments: [sys.executable, *arguments])
    for name, expected in (("server", 0o600), ("worker", 0o644)):
        written = tmp_path / f"{name}.db"
        program = f"open({str(written)!r}, 'w').close(); print('log')"
        part = supervisor._Part(name, ["-c", program], dict(os.environ), tmp_path, threading.Event())
        part._process.wait(20)
        assert (rights(written), rights(tmp_path / f"{name}.log")) == (expected, 0o600)
    (tmp_path / "setup.log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        supervisor._run(["-c", "print()"], dict(os.environ), tmp_path, None)  # type: ignore[arg-type]
    assert not (tmp_path / "victim").exists()
