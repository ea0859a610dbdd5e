"""A store that lets a second writer win is refused by every flow that writes, before any work."""

from collections.abc import Callable, Iterator
from datetime import date

import pytest

from perturb.schemas.errors import StoreError
from perturb.schemas.settings import load_settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.tasks.corpus.seal_and_anchor import seal_and_anchor
from perturb.tasks.export.export_tiers import export_tiers
from perturb.tasks.monitor.doctor import check_all
from tests.support.fake_s3 import FakeS3, fake_s3

REFUSAL = r"keeps no conditional writes.*two writers could overwrite.*PERTURB_SINGLE_WRITER=true"


@pytest.fixture(params=["ignored", "kept"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, s3_credentials: None) -> Iterator[FakeS3]:
    """An S3 service that ignores or keeps If-None-Match, named by the settings."""
    with fake_s3(keeps_conditions=request.param == "kept") as running:
        for name, value in {
            "STORE": "s3://bucket/corpus",
            "S3__ENDPOINT_URL": running.endpoint,
            "S3__REGION": "us-east-1",
            "S3__ADDRESSING_STYLE": "path",
            "JUDGE__NAME": "none",
        }.items():
            monkeypatch.setenv(f"PERTURB_{name}", value)
        yield running


def _produce() -> None:
    from perturb.flows.engine.production_line import opened_line
    from perturb.flows.engine.progress import loading_progress

    with loading_progress() as loading, opened_line(load_settings(), loading=loading):
        pass


def _seal() -> None:
    from perturb.flows.seal import seal

    seal.fn(day=date(2026, 1, 31))


def _seal_without_prefect() -> None:
    seal_and_anchor(load_settings(), day=date(2026, 1, 31))


def _export() -> None:
    from perturb.flows.export import export

    export.fn(tiers=["sample"])


def _export_without_prefect() -> None:
    export_tiers(load_settings(), ["sample"])


@pytest.mark.parametrize("service", ["ignored"], indirect=True)
@pytest.mark.parametrize("work", [_produce, _seal, _seal_without_prefect, _export, _export_without_prefect])
def test_a_store_without_conditional_writes_is_refused(service: FakeS3, work: Callable[[], None]) -> None:
    with pytest.raises(StoreError, match=REFUSAL):
        work()
    assert [request.partition(" ")[0] for request in service.requests] == ["PUT", "PUT", "DELETE"]
    assert service.objects == {}


@pytest.mark.parametrize("single_writer", [False, True])
def test_only_one_writer_may_use_such_a_store(
    service: FakeS3, single_writer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERTURB_SINGLE_WRITER", str(single_writer))
    settings = load_settings()
    allowed = service.keeps_conditions or single_writer
    check = next(iter(check_all(settings)))
    assert (check.part, check.ready) == ("store", allowed)
    if allowed:
        Corpus.open_for_writing(settings)
    else:
        assert "keeps no conditional writes" in check.finding
        with pytest.raises(StoreError, match=REFUSAL):
            Corpus.open_for_writing(settings)
    assert service.objects == {}
