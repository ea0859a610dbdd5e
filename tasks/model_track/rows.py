"""A result of the model track as the rows of a table."""

from perturb.schemas.model_track import TrackResult

COLUMNS = ("miner", "committed at", "outcome", "score", "clean", "old", "effort", "reason")
Row = tuple[str, int, str, float | None, float | None, float | None, float | None, str]


def rows(result: TrackResult) -> list[Row]:
    """Return a row for each candidate, in the order of their commitments, with `COLUMNS`."""
    found: list[Row] = []
    for card in result.candidates:
        score = card.score
        parts = (None,) * 4 if score is None else (score.total, score.clean, score.old, score.effort)
        rounded = (None if part is None else round(part, 3) for part in parts)
        found.append((card.hotkey, card.committed_at, card.outcome, *rounded, card.reason))  # type: ignore[arg-type]
    return found
