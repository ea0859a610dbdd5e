"""Scores of networks from their report cards, and the winner among candidates."""

from collections.abc import Mapping, Sequence

from perturb.schemas.model_track import Baseline, CandidateCard, Score
from perturb.schemas.report_card import ReportCard
from perturb.schemas.settings import ModelTrackSettings

# A network against which the grid attack has to change more than this multiple gains nothing by it.
_MOST_EFFORT = 2.0


def score_of(card: ReportCard, settings: ModelTrackSettings) -> Score | None:
    """Return the score of a measured network, or None where a part of it is missing from the card."""
    if card.clean is None or not card.old_flips or card.effort_ratio is None:
        return None
    parts = {
        "clean": card.clean.accuracy.value,
        # Each target counts alike, however many of the perturbations were made against it.
        "old": 1 - sum(share.value for share in card.old_flips.values()) / len(card.old_flips),
        "effort": min(max(card.effort_ratio.value, 0.0), _MOST_EFFORT) / _MOST_EFFORT,
    }
    weights = {"clean": settings.clean_weight, "old": settings.old_weight, "effort": settings.effort_weight}
    total = sum(weights[name] * part for name, part in parts.items()) / sum(weights.values())
    return Score(**parts, total=min(total, 1.0))


def rank_cards(
    cards: Sequence[CandidateCard], baseline: Baseline, epsilon: float, *, owners: Mapping[str, str] | None = None
) -> tuple[CandidateCard, ...]:
    """Return the cards in the order of their commitments, one of them the winner's where one wins.

    A network can win whose score exceeds the baseline's by more than `epsilon`. Of those within `epsilon` of the best
    the earliest commitment wins. Weights that somebody else committed to earlier are refused; `owners` are hotkeys of
    earlier evaluations by sha256.
    """
    ordered = _without_copies(sorted(cards, key=lambda card: (card.committed_at, card.hotkey)), owners or {})
    least = baseline.score.total + epsilon
    best = max((_total(card) for card in ordered if card.outcome == "behind"), default=0.0)
    winner = next(
        (
            card
            for card in ordered
            if card.outcome == "behind" and _total(card) > least and _total(card) >= best - epsilon
        ),
        None,
    )

    def ranked(card: CandidateCard) -> CandidateCard:
        if card.outcome != "behind":
            return card
        if card is winner:
            reason = (
                f"the earliest within {epsilon:g} of the best score; {baseline.target} has {baseline.score.total:.3f}"
            )
            return card.model_copy(update={"outcome": "winner", "reason": reason})
        if _total(card) <= least:
            reason = f"does not exceed the {baseline.score.total:.3f} of {baseline.target} by more than {epsilon:g}"
        else:
            reason = f"the winner has {_total(winner):.3f}, or committed earlier with as good a network"
        return card.model_copy(update={"reason": reason})

    return tuple(map(ranked, ordered))


def _total(card: CandidateCard | None) -> float:
    return 0.0 if card is None or card.score is None else card.score.total


def _without_copies(cards: Sequence[CandidateCard], owners: Mapping[str, str]) -> list[CandidateCard]:
    """Return cards in the order of commitments, those refused whose weights somebody committed to earlier."""
    owner = dict(owners)
    found = []
    for card in cards:
        if card.sha256 is not None and owner.setdefault(card.sha256, card.hotkey) != card.hotkey:
            reason = f"the weights are those of {owner[card.sha256]}, who committed to them earlier"
            card = card.model_copy(update={"outcome": "refused", "reason": reason})
        found.append(card)
    return found
