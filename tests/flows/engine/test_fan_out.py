"""Two Dask processes write what one process writes, byte for byte, and a lost worker costs nothing."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from perturb.schemas.challenge import Challenge
from perturb.schemas.response import Response
from perturb.schemas.settings import load_settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from tests.support.corpora import VALIDATOR, make_corpus

DAYS = [date(2026, 1, 5), date(2026, 1, 6), date(2026, 1, 7)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="pip install 'perturb[dask]'")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as running:
        yield running


def commit_real_round(corpus: Corpus, number: int) -> None:
    """One photograph, two answers of a real attack, judged by the pipeline itself."""
    import hashlib

    from perturb.miner.answer import attack_answer
    from perturb.miner.targets import TargetPool
    from perturb.models.classifier import load_classifier
    from perturb.models.judge.judge import load_judge
    from perturb.sources import open_source
    from perturb.tasks.challenge.package import make_challenge
    from perturb.tasks.corpus.commit import commit_round
    from perturb.tasks.verify.round import verify
    from perturb.tasks.verify.score import score

    settings = load_settings(seed=number)
    classifier, judge = load_classifier(settings.classifier), load_judge(settings.judge, cache=settings.cache)
    drawn = (
        make_challenge(
            photo,
            classifier=classifier,
            judge=judge,
            settings=settings,
            now=datetime(2026, 1, 5, 12, number, tzinfo=UTC),
        )
        for photo in islice(open_source(settings).photos(seed=number), 20)
    )
    challenge = next(made for made in drawn if isinstance(made, Challenge))
    responses = []
    for place, attack in enumerate(("fgsm", "pgd")):
        body = attack_answer(attack, TargetPool(settings.classifier), budget_seconds=2)(
            challenge.task, challenge.pixels, float("inf")
        )
        digest = hashlib.sha256(body).hexdigest()
        responses.append(Response(place, f"5Miner{place}", 100.0 + place, body, digest, nonce="n", signature="00"))
    verdicts = verify(challenge, responses, classifier=classifier, judge=judge, settings=settings)
    scores = [
        score(verdict, challenge.task, response.response_ms, policy=settings.policy)
        for verdict, response in zip(verdicts, responses, strict=True)
    ]
    commit_round(
        corpus,
        challenge,
        responses,
        verdicts,
        scores,
        netuid=26,
        block=None,
        validator_hotkey=VALIDATOR.ss58_address,
        signer=VALIDATOR,
    )


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def on_dask(monkeypatch: pytest.MonkeyPatch, cluster: Any) -> None:
    monkeypatch.setenv("PERTURB_RUNNER", "dask")
    monkeypatch.setenv("PERTURB_RUNNER_ADDRESS", cluster.scheduler_address)


@pytest.mark.dask
def test_days_exported_side_by_side_are_the_same_bytes(
    prefect_server: None, cheap_line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Any
) -> None:
    from perturb.flows.export import export

    make_corpus(open_store(str(cheap_line)), days=DAYS, rounds=3)
    other = tmp_path / "other"
    shutil.copytree(cheap_line, other)
    today = date(2026, 6, 1)
    alone = export(tiers=["professional"], store=str(cheap_line), today=today)[0]
    key = (cheap_line / "operator" / "pseudonym.key").read_bytes()
    (other / "operator").mkdir(exist_ok=True)
    (other / "operator" / "pseudonym.key").write_bytes(key)

    on_dask(monkeypatch, cluster)
    # Its supervisor starts another; whatever it held is done again.
    os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
    together = export(tiers=["professional"], store=str(other), today=today)[0]

    assert [day.day for day in together.added] == DAYS
    assert together.added == alone.added
    assert contents(other / "exports") == contents(cheap_line / "exports")


@pytest.mark.dask
def test_a_day_sealed_on_two_workers_is_the_same_bytes(
    prefect_server: None, cheap_line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Any
) -> None:
    from perturb.flows.seal import seal

    monkeypatch.setenv("PERTURB_SEAL__REVERIFY_FRACTION", "1")
    # Each try to seal has a folder of its own; the same one makes the bytes comparable.
    monkeypatch.setattr("perturb.tasks.corpus.seal.secrets", SimpleNamespace(token_hex=lambda size: "ab" * size))
    monkeypatch.setattr("perturb.flows.seal._LEAST", 1)
    corpus = Corpus(open_store(str(cheap_line)))
    for number in range(3):
        commit_real_round(corpus, number)
    other = tmp_path / "other"
    shutil.copytree(cheap_line, other)

    alone = seal(day=DAYS[0], store=str(cheap_line))
    on_dask(monkeypatch, cluster)
    together = seal(day=DAYS[0], store=str(other))

    assert together == alone
    assert together.reverified == together.images > 1
    first, second = contents(cheap_line / "sealed"), contents(other / "sealed")
    data = {name for name in first if name.endswith((".tar", ".parquet"))}
    # Shards of both kinds, the records, and the four tables beside them: claims, models, statistics, miners.
    assert len(data) == 7
    assert {name: second[name] for name in data} == {name: first[name] for name in data}


@pytest.mark.dask
def test_a_round_verified_on_two_workers_has_the_same_verdicts(
    prefect_server: None, cheap_line: Path, monkeypatch: pytest.MonkeyPatch, cluster: Any
) -> None:
    import perturb.flows.engine.distributed_verification
    from perturb.flows.produce import produce
    from perturb.models.classifier import load_classifier
    from perturb.models.judge.judge import NoJudge
    from perturb.tasks.corpus.audit import audit
    from perturb.tasks.verify.round import verify

    monkeypatch.setenv("PERTURB_CLASSIFIER__PERSISTENCE", "true")
    monkeypatch.setattr(perturb.flows.engine.distributed_verification, "_MIN_ROUND", 2)
    monkeypatch.setattr(perturb.flows.engine.distributed_verification, "_MIN_SLICE", 1)
    on_dask(monkeypatch, cluster)
    # A worker's own settings of how to decide count for nothing: its environment still says no persistence.
    merged: list[tuple[Any, Any, Any]] = []
    lost: list[int] = []

    def merge_slices(challenge: Any, responses: Any, *rest: Any, **more: Any) -> Any:
        verdicts = plain_merge(challenge, responses, *rest, **more)
        merged.append((challenge, responses, verdicts))
        return verdicts

    def stage(*part: Any, number: int) -> Any:
        if number == 1 and not lost:
            lost.append(next(iter(cluster.workers.values())).pid)
            os.kill(lost[0], signal.SIGKILL)
        return plain_stage(*part, number=number)

    plain_merge, plain_stage = (
        perturb.flows.engine.distributed_verification.merge_slices,
        perturb.flows.engine.distributed_verification.stage,
    )
    monkeypatch.setattr(perturb.flows.engine.distributed_verification, "merge_slices", merge_slices)
    monkeypatch.setattr(perturb.flows.engine.distributed_verification, "stage", stage)
    produced = produce(rounds=2, local_miners=3)

    assert lost
    assert len(merged) == 2
    settings = load_settings()
    for challenge, responses, verdicts in merged:
        alone = verify(
            challenge,
            responses,
            classifier=load_classifier(settings.classifier),
            judge=NoJudge(),
            settings=settings,
        )
        assert verdicts == alone
    assert produced.accepted > 0
    corpus = Corpus(open_store(str(cheap_line)))
    assert not list(corpus.store.entries("pending/"))
    report = audit(corpus)
    assert (report.faults, report.records) == ([], 6)


@pytest.mark.dask
def test_a_cluster_that_is_gone_costs_no_round(
    prefect_server: None, cheap_line: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import perturb.flows.engine.distributed_verification
    from perturb.flows.produce import produce

    @contextmanager
    def workers(_: Any) -> Iterator[Any]:
        def submit(*_: Any, **__: Any) -> Any:
            raise ConnectionError("the scheduler went away")

        yield submit

    monkeypatch.setattr(perturb.flows.engine.distributed_verification, "workers", workers)
    monkeypatch.setattr(perturb.flows.engine.distributed_verification, "_MIN_ROUND", 1)
    monkeypatch.setenv("PERTURB_RUNNER", "dask")
    assert produce(rounds=1, local_miners=2).accepted > 0
    assert "the scheduler went away" in caplog.text


@pytest.mark.dask
def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    dask = pytest.importorskip("dask", reason="pip install 'perturb[dask]'")
    from perturb.flows.engine.runner import workers
    from perturb.schemas.errors import SettingsError

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(SettingsError, match=r"tcp://127\.0\.0\.1:9.*dask scheduler"),
        workers(load_settings(runner="dask", runner_address="tcp://127.0.0.1:9")),
    ):
        pass


@pytest.mark.dask
def test_a_worker_without_models_is_told_apart_from_a_lost_one(
    prefect_server: None, cheap_line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perturb.flows.seal import seal
    from perturb.schemas.errors import ModelError

    distributed = pytest.importorskip("distributed", reason="pip install 'perturb[dask]'")
    monkeypatch.setenv("PERTURB_SEAL__REVERIFY_FRACTION", "1")
    commit_real_round(Corpus(open_store(str(cheap_line))), 0)
    poor = {"PERTURB_CLASSIFIER__WEIGHTS": "/no/such/weights.safetensors"}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, env=poor) as cluster:
        on_dask(monkeypatch, cluster)
        with pytest.raises(ModelError, match=r"/no/such/weights\.safetensors"):
            seal(day=DAYS[0], store=str(cheap_line))
    assert not Corpus(open_store(str(cheap_line))).sealed_days()


def test_a_runner_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from perturb.flows.engine.runner import task_runner
    from perturb.schemas.errors import SettingsError

    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    monkeypatch.setitem(sys.modules, "prefect_ray.task_runners", None)
    with pytest.raises(SettingsError, match=r"perturb\[ray\]"):
        task_runner(load_settings(runner="ray"))
