"""Who wins the model track: the earliest commitment among the best, and nobody who does not exceed the line-up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from perturb.schemas.model_track import Baseline, CandidateCard, Score
from perturb.schemas.settings import ModelTrackSettings
from perturb.tasks.model_track.rank import rank_cards
from perturb.tasks.weights.emission import blend

EPSILON = 0.01


def score(total: float) -> Score:
    return Score(clean=total, old=total, effort=total, total=total)


def card(hotkey: str, at: int, total: float | None, sha256: str | None = None) -> CandidateCard:
    return CandidateCard(
        hotkey=hotkey, text="{}", committed_at=at, sha256=sha256 or hotkey, reason="",
        outcome="refused" if total is None else "behind", score=None if total is None else score(total),
    )  # fmt: skip


def winner(cards: list[CandidateCard], owners: dict[str, str] | None = None) -> str | None:
    ranked = rank_cards(cards, Baseline(target="lite0-g0", score=score(0.5)), EPSILON, owners=owners)
    found = [one.hotkey for one in ranked if one.outcome == "winner"]
    assert len(found) <= 1
    assert all(one.reason for one in ranked if one.outcome in ("winner", "behind"))
    return found[0] if found else None


def test_the_earliest_of_equals_wins_and_only_above_the_line_up() -> None:
    assert winner([]) is None
    assert winner([card("a", 1, None), card("b", 2, 0.509)]) is None
    assert winner([card("late", 9, 0.709), card("early", 5, 0.70), card("worse", 1, 0.698)]) == "early"
    # Of the same block the hotkey decides.
    assert winner([card("b", 5, 0.7), card("a", 5, 0.7)]) == "a"
    # A network that is close to the best, but no better than the line-up, does not win by being early.
    assert winner([card("early", 1, 0.508), card("late", 2, 0.515)]) == "late"


def test_a_copy_gets_nothing_even_where_the_first_was_refused() -> None:
    same = "c" * 64
    assert winner([card("copy", 2, 0.9, same), card("owner", 1, 0.9, same), card("other", 3, 0.6)]) == "owner"
    assert winner([card("copy", 2, 0.9, same), card("owner", 1, None, same), card("other", 3, 0.6)]) == "other"


def test_weights_stay_their_owners_while_its_server_is_away() -> None:
    same = "c" * 64
    copy = card("copy", 2, 0.9, same)
    assert winner([copy]) == "copy"
    assert winner([copy], owners={same: "owner"}) is None
    assert winner([copy], owners={same: "copy"}) == "copy"


weights = st.dictionaries(st.integers(0, 255), st.floats(1e-6, 1), max_size=8)


@given(weights, weights, st.floats(0, 1))
def test_blended_weights_sum_to_one_and_an_empty_track_takes_nothing(
    scanning: dict[int, float], model: dict[int, float], share: float
) -> None:
    scanning, model = ({uid: one / sum(some.values()) for uid, one in some.items()} for some in (scanning, model))
    mixed = blend(scanning, model, model_share=share)
    assert sum(mixed.values()) == pytest.approx(1 if scanning or model else 0)
    if not model:
        assert mixed == pytest.approx(scanning)
    for uid in {*scanning} - {*model}:
        assert mixed.get(uid, 0) == pytest.approx((1 - (share if model else 0)) * scanning[uid])


def test_a_score_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be above 0"):
        ModelTrackSettings(clean_weight=0, old_weight=0, effort_weight=0)
