"""Production for two targets: miners that load what a task names, and records that verify in both generations."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from perturb.schemas.record import Record
from perturb.schemas.settings import load_settings
from perturb.schemas.target import FIRST_GENERATION
from perturb.sinks.targets.registry import Registry
from perturb.tasks.corpus.audit import audit_store
from perturb.tasks.corpus.seal_and_anchor import seal_and_anchor
from perturb.tasks.lineup.add import add_first_generation, add_state
from perturb.tasks.lineup.promote import promote

pytestmark = pytest.mark.slow


def test_two_targets_are_attacked_sealed_and_audited(cheap_line: Path) -> None:
    from perturb.flows.engine.production_line import opened_line
    from perturb.flows.engine.progress import loading_progress
    from perturb.models.classifier import load_classifier

    settings = load_settings()
    registry = Registry.open(settings)
    first = add_first_generation(registry, settings)
    state = load_classifier(settings.classifier).module.net.state_dict()
    changed = {name: value * 1.01 if name == "classifier.weight" else value for name, value in state.items()}
    add_state(registry, changed, of=first, name="lite0-g1", recipe={})
    promote(settings, "lite0-g1", share=0.5, ungated=True)
    records: list[Record] = []
    with loading_progress() as loading, opened_line(settings, local_miners=2, loading=loading) as line:
        # The chance of one target only in 40 rounds is 2^-39.
        while len({record.target for record in records if record.outcome == "accepted"}) < 2 and len(records) < 80:
            round_id = line.draw()
            assert line.collect(round_id)
            records += line.finish(round_id).committed.records
        day = line.corpus.open_day(datetime.now(UTC))
    assert {record.target for record in records} == {FIRST_GENERATION, "lite0-g1"}
    assert {(record.target, record.classifier_sha256) for record in records} == {
        (name, registry.get(name).sha256) for name in (FIRST_GENERATION, "lite0-g1")
    }
    assert {record.log_size for record in records} == {1}
    for deep_audit in range(2):
        report = audit_store(settings)
        assert report.faults == []
        assert report.reverified > 0
        if not deep_audit:
            assert seal_and_anchor(settings, day=day, early=True).records == len(records)
