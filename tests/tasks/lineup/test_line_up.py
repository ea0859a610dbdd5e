"""The line-up: shares, draws that anyone repeats, and changes that are entries of the log."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from safetensors.torch import save

from perturb.models.classifier import load_classifier
from perturb.schemas.errors import CorpusError, ModelError
from perturb.schemas.line_up import LineUp, Share, draw_target
from perturb.schemas.settings import ClassifierSettings, Settings, SubnetSettings
from perturb.schemas.target import FIRST_GENERATION, Target
from perturb.sinks.log.log import Log
from perturb.sinks.stores.open import open_store
from perturb.sinks.targets.line_up import LineUps
from perturb.sinks.targets.registry import Registry
from perturb.subnet.trust import load_trust
from perturb.tasks.corpus.audit import audit_store
from perturb.tasks.lineup.add import add_first_generation, add_state
from perturb.tasks.lineup.check_draw import TOLERANCE, DrawChecker
from perturb.tasks.lineup.draw import TargetDraw
from perturb.tasks.lineup.in_force import read_line_up
from perturb.tasks.lineup.promote import promote, retire, rollback, with_share, without
from perturb.tasks.model_track.evaluate import evaluate_models


def share_of(name: str, share: float) -> Share:
    return Share(target=name, sha256=name[-1] * 64, share=share)


def target_of(name: str) -> Target:
    facts: dict[str, Any] = {"architecture": "resnet18", "input_size": 224, "classes": 1000}
    return Target(name=name, sha256=name[-1] * 64, created_at=datetime(2026, 1, 1, tzinfo=UTC), **facts)


def test_two_hundred_draws_follow_the_shares() -> None:
    for share in (0.25, 0.75):
        shares = (share_of("a0", 1 - share), share_of("b1", share))
        drawn = [draw_target(shares, f"20260101T{number:012d}Z-{number:08x}", 7).target for number in range(200)]
        assert abs(drawn.count("b1") - 200 * share) < 4 * math.sqrt(200 * share * (1 - share))
        assert drawn == [draw_target(shares, f"20260101T{n:012d}Z-{n:08x}", 7).target for n in range(200)]
        assert drawn != [draw_target(shares, f"20260101T{n:012d}Z-{n:08x}", 8).target for n in range(200)]
    # sha256("r|1") begins with 41182c4ff646f4cc: the point 0.25427…
    edge = 0x41182C4FF646F4CC / 2**64
    assert draw_target((share_of("a0", edge), share_of("b1", 1 - edge)), "r", 1).target == "b1"
    above = math.nextafter(edge, 1)
    assert draw_target((share_of("a0", above), share_of("b1", 1 - above)), "r", 1).target == "a0"


@given(st.lists(st.tuples(st.sampled_from("1234"), st.floats(0.01, 0.75), st.booleans()), max_size=8))
def test_shares_always_sum_to_one_and_the_first_keeps_a_quarter(changes: list[tuple[str, float, bool]]) -> None:
    shares: tuple[Share, ...] = (share_of("g0", 1),)
    for number, share, leaves in changes:
        name = f"g{number}"
        if not leaves:
            shares = with_share(shares, "g0", target_of(name), share)
            assert next(one.share for one in shares if one.target == name) == share
        elif name in {one.target for one in shares}:
            shares = without(shares, "g0", name)
        # The schema checks sum, order and the first generation's share.
        assert LineUp(number=1, event="promotion", target=name, first="g0", shares=shares)


def test_shares_that_cannot_be_given_are_refused() -> None:
    alone = (share_of("g0", 1),)
    for share in (0, 0.76, -1, float("nan")):
        with pytest.raises(ModelError, match=r"--share .* cannot be given to 'g1'; accepted: above 0 to 0.75"):
            with_share(alone, "g0", target_of("g1"), share)
    with pytest.raises(ModelError, match="'g0' is the first generation, which stays"):
        without(alone, "g0", "g0")
    with pytest.raises(ModelError, match="'g1' is not in the line-up; accepted: none"):
        without(alone, "g0", "g1")
    for shares, message in (
        ((share_of("g0", 0.5),), "the shares sum to 0.5, not to 1"),
        ((share_of("g0", 0.2), share_of("g1", 0.8)), "has a share of 0.2, below 0.25"),
        ((share_of("g1", 0.5), share_of("g0", 0.5)), "not sorted by name"),
    ):
        with pytest.raises(ValidationError, match=message):
            LineUp(number=1, event="promotion", target="g1", first="g0", shares=shares)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        store=str(tmp_path / "store"),
        cache_dir=tmp_path / "cache",
        classifier=ClassifierSettings(persistence=False, device="cpu"),
        subnet=SubnetSettings(hotkey_uri=SecretStr("//line-up")),
    )


@pytest.fixture
def registry(settings: Settings) -> Registry:
    """The first generation and two others, whose weights differ in their last bias."""
    registry = Registry(open_store(settings.store))
    first = add_first_generation(registry, settings)
    state = load_classifier(settings.classifier).module.net.state_dict()
    for number in (1, 2):
        changed = {name: value + number / 8 if name == "classifier.bias" else value for name, value in state.items()}
        add_state(registry, changed, of=first, name=f"lite0-g{number}", recipe={})
    return registry


def names(line_up: LineUp | None) -> dict[str, float]:
    return {} if line_up is None else {one.target: one.share for one in line_up.shares}


def test_changes_are_entries_of_the_log_and_can_be_undone(settings: Settings, registry: Registry) -> None:
    assert read_line_up(settings) is None
    with pytest.raises(ModelError, match="no change of the line-up to undo"):
        rollback(settings)
    with pytest.raises(ModelError, match="'lite0-g1' was not measured; run `perturb targets measure lite0-g1`"):
        promote(settings, "lite0-g1")
    with pytest.raises(ModelError, match="target 'nobody' is not in the registry"):
        promote(settings, "nobody", ungated=True)
    first = promote(settings, "lite0-g1", share=0.75, ungated=True)
    assert (first.number, first.gates, names(first)) == (1, "not asked", {FIRST_GENERATION: 0.25, "lite0-g1": 0.75})
    second = promote(settings, "lite0-g2", share=0.5, ungated=True)
    assert names(second) == {FIRST_GENERATION: 0.25, "lite0-g1": 0.25, "lite0-g2": 0.5}
    assert names(retire(settings, "lite0-g1")) == {
        FIRST_GENERATION: pytest.approx(1 / 3),
        "lite0-g2": pytest.approx(2 / 3),
    }
    assert names(rollback(settings)) == names(second)
    assert names(rollback(settings)) == names(first)
    assert names(rollback(settings)) == {FIRST_GENERATION: 1}
    with pytest.raises(ModelError, match="every change of the line-up is undone already"):
        rollback(settings)
    log = Log(open_store(settings.store), trust=load_trust(settings.subnet))
    kinds = [record.entry.kind for record in log.records()]
    assert kinds == ["promotion", "promotion", "retirement", "rollback", "rollback", "rollback"]
    assert audit_store(settings).faults == []
    # A line-up that was exchanged is not used.
    document = next(Path(settings.store).glob("line-ups/00000006-*.json"))
    document.write_bytes(document.read_bytes().replace(b'"share":1', b'"share":0.9999999999'))
    with pytest.raises(CorpusError, match=r"is not the document of log/00000005\.json"):
        read_line_up(settings)


def test_of_two_promotions_at_once_one_wins(
    settings: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = LineUps.append
    others = iter(["lite0-g2"])

    def overtaken(self: LineUps, line_up: LineUp, **more: Any) -> Any:
        for name in others:
            promote(settings, name, ungated=True)
        return plain(self, line_up, **more)

    monkeypatch.setattr(LineUps, "append", overtaken)
    with pytest.raises(ModelError, match="another change of the line-up came first"):
        promote(settings, "lite0-g1", ungated=True)
    assert names(read_line_up(settings)) == {FIRST_GENERATION: 0.5, "lite0-g2": 0.5}


def test_a_draw_that_was_chosen_is_a_fault(settings: Settings, registry: Registry) -> None:
    store = open_store(settings.store)
    before = TargetDraw(store, settings).draw("early")
    assert (before.target, before.log_size) == (FIRST_GENERATION, None)
    promote(settings, "lite0-g1", share=0.5, ungated=True)
    draw = TargetDraw(store, settings)
    drawn = [draw.draw(f"round-{number}") for number in range(40)]
    assert {one.target for one in drawn} == {FIRST_GENERATION, "lite0-g1"}
    assert draw.classifier(drawn[0].sha256).sha256 == drawn[0].sha256
    log = Log(store, trust=load_trust(settings.subnet))
    checker = DrawChecker(log)
    now = datetime.now(UTC)

    def row(number: int, **changes: Any) -> dict[str, Any]:
        one = drawn[number]
        facts = {"round_id": one.round_id, "created_at": now, "target": one.target, "log_size": one.log_size}
        return facts | {"classifier_sha256": one.sha256} | changes

    assert [checker.fault(row(number)) for number in range(40)] == [None] * 40
    other = next(one for one in drawn if one.target != drawn[0].target)
    chosen = row(0, target=other.target, classifier_sha256=other.sha256)
    assert str(checker.fault(chosen)).startswith(f"the target is {other.target}")
    # Other weights under the name that was drawn, and a draw from a log that there was not, or is not.
    assert "the target is" in str(checker.fault(row(0, classifier_sha256="0" * 64)))
    late, early = now + 2 * TOLERANCE, now - 2 * TOLERANCE
    assert "names no draw, though a line-up was in force" in str(checker.fault(row(0, log_size=None, created_at=late)))
    assert checker.fault(row(0, log_size=None, created_at=early)) is None
    assert "the log was not so long" in str(checker.fault(row(0, created_at=early)))
    assert "log_size is 2, the log has 1 entries" in str(checker.fault(row(0, log_size=2)))
    assert "log_size is 0" in str(checker.fault(row(0, log_size=0)))
    retire(settings, "lite0-g1")
    stale = DrawChecker(log)
    assert stale.fault(row(0)) is None
    assert "the log was longer" in str(stale.fault(row(0, created_at=late + timedelta(hours=1))))


def test_a_round_that_is_drawn_while_the_model_track_measures_is_no_fault(
    settings: Settings, registry: Registry
) -> None:
    store = open_store(settings.store)
    promote(settings, "lite0-g1", share=0.5, ungated=True)
    drawn = TargetDraw(store, settings).draw("round")
    now = datetime.now(UTC)
    evaluate_models(settings, now=now - timedelta(hours=3))
    log = Log(store, trust=load_trust(settings.subnet))
    newest = log.newest()
    assert newest is not None
    assert (newest.entry.kind, newest.head.size) == ("model-track", (drawn.log_size or 0) + 1)
    facts = {"round_id": drawn.round_id, "target": drawn.target, "classifier_sha256": drawn.sha256}
    assert DrawChecker(log).fault(facts | {"created_at": now, "log_size": drawn.log_size}) is None


def test_a_target_that_does_not_load_is_named(settings: Settings, registry: Registry, tmp_path: Path) -> None:
    promote(settings, "lite0-g1", share=0.75, ungated=True)
    draw = TargetDraw(open_store(settings.store), settings)
    assert draw.load_all() == [FIRST_GENERATION, "lite0-g1"]
    weights = Path(settings.store) / "targets/lite0-g2/weights.safetensors"
    weights.write_bytes(save({"a": torch.zeros(1)}))
    refused = pytest.raises(ModelError, match=r"targets/lite0-g2/weights\.safetensors is not the file of its card")
    with refused:
        promote(settings, "lite0-g2", share=0.5, ungated=True)
    assert names(read_line_up(settings)) == {FIRST_GENERATION: 0.25, "lite0-g1": 0.75}
