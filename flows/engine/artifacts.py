"""What Prefect's pages show of a run: tables and small pictures. They are for looking at; the corpus is the record."""

import base64
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np
from prefect.artifacts import create_image_artifact, create_table_artifact
from prefect.exceptions import PrefectException

from perturb.flows.engine.production_line import FinishedRound
from perturb.schemas.pair import Pair
from perturb.schemas.record import Record
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.dataset.plots import draw_counts
from perturb.sinks.report.contact_sheet import amplified_difference
from perturb.sinks.report.status_page import amount, data_uri
from perturb.tasks.export.export import ExportResult

logger = logging.getLogger(__name__)
# A round takes seconds; where it doesn't, Prefect's database need not keep each of them.
_PAUSE_SECONDS = 2.0
_ROWS = 256
_SIDE = 176
_shown_at = 0.0


def show_round(finished: FinishedRound, best: Pair | None) -> None:
    """A table of the round's miners and its best pair, before, after and the difference. Never fails a round."""
    global _shown_at
    if time.monotonic() - _shown_at < _PAUSE_SECONDS:
        return
    committed = finished.committed
    title = f"round {committed.round_id}: {committed.accepted} of {committed.records} accepted"
    _try(lambda: create_table_artifact(_miners(committed.rows), key="round-miners", description=title))
    if best is not None:
        text = (
            f"{best.row['true_label_name']} → {best.row['adversarial_label_name']}, L-inf {best.row['linf_levels']}/255"
        )
        _try(lambda: create_image_artifact(_strip(best), key="round-pair", description=f"{title}; {text}"))
    _shown_at = time.monotonic()


def show_seal(manifest: Manifest, size: int) -> None:
    """Counts and sizes of a sealed day, and its outcomes as bars."""
    rows: list[dict[str, Any]] = [
        {"what": "rounds", "value": len(manifest.rounds)},
        {"what": "records", "value": manifest.records},
        {"what": "accepted images", "value": manifest.images},
        {"what": "duplicates of the day", "value": manifest.duplicates},
        {"what": "verified again", "value": manifest.reverified.records},
        {"what": "files", "value": len(manifest.files)},
        {"what": "size", "value": amount(size)},
        {"what": "Merkle root", "value": manifest.merkle_root},
    ]
    title = f"sealed day {manifest.day}"
    _try(lambda: create_table_artifact(rows, key="sealed-day", description=title))
    if manifest.outcomes:
        plot = draw_counts(manifest.outcomes, f"outcomes of {manifest.day}, records")
        _try(lambda: create_image_artifact(_png_uri(plot), key="sealed-outcomes", description=title))


def show_export(result: ExportResult, plot: bytes | None) -> None:
    """What a run added to a tier, and the distributions of the whole export (`plot`, a PNG)."""
    rows: list[dict[str, Any]] = [
        {"day": str(day.day), "records": day.records, "files": day.files, "size": amount(day.bytes)}
        for day in result.added
    ]
    rows.append({"day": "all", "records": result.records, "files": "", "size": amount(result.bytes)})
    title = f"tier {result.tier}, version {result.version}: {len(result.added)} days added"
    _try(lambda: create_table_artifact(rows, key=f"export-{result.tier}", description=title))
    if plot is not None:
        _try(lambda: create_image_artifact(_png_uri(plot), key=f"export-{result.tier}-plots", description=title))


def show_table(key: str, rows: Sequence[dict[str, Any]], title: str) -> None:
    """Any other table; `key` in lowercase letters, digits and dashes."""
    _try(lambda: create_table_artifact(list(rows[:_ROWS]), key=key, description=title))


def _miners(rows: Sequence[Record]) -> list[dict[str, Any]]:
    ranked = sorted(rows, key=lambda row: -row.score)
    return [
        {
            "uid": row.miner_uid,
            "miner": row.miner_hotkey,
            "outcome": row.outcome,
            "L-inf": "" if row.linf_levels is None else f"{row.linf_levels}/255",
            "SSIM": "" if row.ssim is None else f"{row.ssim:.5f}",
            "ms": round(row.response_ms),
            "score": round(row.score, 4),
        }
        for row in ranked[:_ROWS]
    ]


def _strip(best: Pair) -> str:
    original, perturbed = best.pixels()
    tiles = [original, perturbed, amplified_difference(original, perturbed)]
    return data_uri(np.concatenate(tiles, axis=1), side=3 * _SIDE)


def _png_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _try(publish: Callable[[], Any]) -> None:
    """A server that is away costs a picture, not a round."""
    try:
        publish()
    except (httpx.HTTPError, PrefectException, OSError) as error:
        logger.warning("an artifact was not kept: %s", error or type(error).__name__)
