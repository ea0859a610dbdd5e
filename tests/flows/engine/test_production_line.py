"""The whole line under Prefect: production until a signal, a seal, an audit, and what the server stored of it."""

import json
import os
import signal
import threading
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import perturb.flows
from perturb.schemas.settings import load_settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.audit import audit

pytestmark = pytest.mark.slow

SECRETS = ("a-secret-development-key", "pexels-secret")


def terminate_if_caught() -> None:
    """Send SIGTERM to this process, unless it would end it: a flow that failed left nothing that catches it."""
    if callable(signal.getsignal(signal.SIGTERM)):
        os.kill(os.getpid(), signal.SIGTERM)


def stop_after(corpus: Corpus, rounds: int, *, seconds: float = 200) -> threading.Thread:
    """Sends SIGTERM to this process when so many rounds are committed; the flow must be the one to catch it."""

    def watch() -> None:
        deadline = time.monotonic() + seconds
        while len(corpus.live_rounds()) < rounds:
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        terminate_if_caught()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_production_stops_cleanly_and_what_it_made_holds(prefect_server: None, cheap_line: Path) -> None:
    from prefect.client.orchestration import get_client

    from perturb.flows.produce import produce
    from perturb.flows.seal import seal

    begun = datetime.now(UTC)
    corpus = Corpus(open_store(str(cheap_line)))
    watcher = stop_after(corpus, 2)
    before = signal.getsignal(signal.SIGTERM)
    produced = produce(continuous=True, local_miners=2)
    watcher.join(10)

    assert produced.stopped
    assert signal.getsignal(signal.SIGTERM) is before
    live = corpus.live_rounds()
    assert len(live) == produced.rounds >= 2
    assert {ref.round_id for ref in live} == set(produced.round_ids)
    assert produced.accepted > 0
    assert not corpus.store.unfinished()

    day = corpus.open_day(datetime.now(UTC))
    sealed = seal(day=day, early=True)
    assert (sealed.rounds, sealed.records) == (produced.rounds, produced.responses)
    report = audit(Corpus(open_store(str(cheap_line))))
    assert report.faults == []
    assert report.records == produced.responses

    with get_client(sync_client=True) as client:
        # Other tests share the server, and some of their runs are meant to fail.
        ours = [run for run in client.read_flow_runs(limit=200) if run.start_time and run.start_time >= begun]
        runs = {run.name: run for run in ours}
        task_runs = client.read_task_runs(limit=200)
        artifacts = client.read_artifacts(limit=200)
    assert len(runs) == 2
    assert all(run.state is not None and run.state.is_completed() for run in runs.values())

    seen = "\n".join(run.model_dump_json() for run in [*runs.values(), *task_runs])
    assert not any(secret in seen for secret in SECRETS)
    largest = max(len(json.dumps(value, default=str)) for run in runs.values() for value in run.parameters.values())
    largest = max([largest, *(len(json.dumps(run.task_inputs, default=str)) for run in task_runs)])
    assert largest < 1000, "something large went through a parameter"

    by_key = {artifact.key: artifact for artifact in artifacts}
    assert {"round-miners", "round-pair", "sealed-day", "sealed-outcomes"} <= set(by_key)
    miners = json.loads(str(by_key["round-miners"].data))
    assert {"outcome", "L-inf", "SSIM", "ms", "score"} <= set(miners[0])
    assert str(by_key["round-pair"].data).startswith("data:image/jpeg;base64,")
    assert not any(secret in str(artifact.data) for artifact in artifacts for secret in SECRETS)


def test_a_disk_that_fills_up_in_mid_round_costs_that_round_only(
    prefect_server: None, cheap_line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perturb.flows.engine.production_line import ProductionLine
    from perturb.flows.produce import produce
    from perturb.schemas.errors import StoreError
    from tests.support.full_disk import fill_the_disk

    finish = ProductionLine.finish
    corpus = Corpus(open_store(str(cheap_line)))

    def finish_on_a_disk_that_fills_up(line: ProductionLine, round_id: str, verify: object) -> object:
        if corpus.live_rounds():
            fill_the_disk(disk)
        return finish(line, round_id, verify)

    with pytest.MonkeyPatch.context() as disk:
        disk.setattr(ProductionLine, "finish", finish_on_a_disk_that_fills_up)
        with pytest.raises(StoreError, match=r"disk is full.*free some space"):
            produce(rounds=3, local_miners=2)
    assert len(corpus.live_rounds()) == 1
    assert not corpus.store.unfinished()

    assert produce(rounds=1, local_miners=2).rounds == 1
    report = audit(Corpus(open_store(str(cheap_line))))
    assert (report.faults, report.records) == ([], 4)


def test_task_parameters_are_references_and_small_values() -> None:
    """No image, model or secret can be handed to a task: its parameters have types that hold none."""
    import importlib
    import pkgutil

    from prefect import Task

    from perturb.certificates.planning import PlanRequest
    from perturb.flows.engine.production_line import ProductionLine
    from perturb.flows.produce import stages_of
    from perturb.tasks.verify.reverify_by_reference import RecordRef

    line = object.__new__(ProductionLine)
    allowed = {str, int, float, bool, date, type(None), RecordRef, PlanRequest}
    tasks = {
        value
        for module in pkgutil.walk_packages(perturb.flows.__path__, "perturb.flows.")
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, Task)
    } | set(stages_of(line, line.verify))
    assert len(tasks) >= 8
    for task in tasks:
        for name, annotation in get_type_hints(task.fn).items():
            kinds = {part for kind in (get_args(annotation) or (annotation,)) for part in (get_args(kind) or (kind,))}
            assert name == "return" or kinds <= allowed, f"{task.name} takes {name}: {annotation}"


def test_a_line_that_cannot_start_says_what_to_do(
    prefect_server: None, cheap_line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perturb.flows.produce import produce
    from perturb.schemas.errors import SettingsError

    # Who can be asked is found out before any model is loaded.
    monkeypatch.setenv("PERTURB_CLASSIFIER__WEIGHTS", "/nowhere/weights.safetensors")
    with pytest.raises(SettingsError, match="local miners"):
        produce(rounds=1, local_miners=0)
    assert not Corpus(open_store(load_settings().store)).live_rounds()


def test_abandon_ends_a_wait_for_answers(cheap_line: Path) -> None:
    """Of two miners one is stopped, as by a machine that hangs: without `abandon` the round waits for its timeout."""
    from perturb.flows.engine.production_line import opened_line
    from perturb.flows.engine.progress import loading_progress
    from perturb.miner.local import start_local_miners

    settings = load_settings(seed=1)
    slow = settings.challenge.model_copy(update={"timeout_ms": 60_000})
    with (
        loading_progress() as loading,
        start_local_miners(2, settings=settings) as miners,
        opened_line(settings.model_copy(update={"subnet": miners.subnet, "challenge": slow}), loading=loading) as line,
    ):
        os.kill(miners.pids[1], signal.SIGSTOP)
        abandoned = line.draw()
        timer = threading.Timer(1.0, line.abandon)
        timer.start()
        began = time.monotonic()
        assert not line.collect(abandoned)
        assert 0.9 < time.monotonic() - began < 10
        # The round is gone, and no later wait begins.
        assert not line.collect(line.draw())
        with pytest.raises(KeyError):
            line.finish(abandoned)
        assert time.monotonic() - began < 20
    assert not line.corpus.live_rounds()
