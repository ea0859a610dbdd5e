"""What Prefect's pages show of a run: tables and small pictures, for display only. The corpus is the record."""

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
from perturb.sandbox.stored import pair_pixels
from perturb.schemas.pair import Pair
from perturb.schemas.record import Record
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.dataset.plots import draw_counts
from perturb.sinks.report.contact_sheet import amplified_difference
from perturb.sinks.report.status_page import amount, data_uri
from perturb.tasks.export.export import ExportResult

logger = logging.getLogger(__name__)
# Where rounds are shorter than this, Prefect's database need not keep each of them.
_PAUSE_SECONDS = 2.0
_ROWS = 256
_SIDE = 176


class ShowRound:
    """Shows rounds of one run: a table of the round's miners, and its best pair, before, after and the difference.

    At most one round in two seconds is shown. A failure to show is logged and never fails the round.
    """

    def __init__(self) -> None:
        self._shown_at = float("-inf")

    def __call__(self, finished: FinishedRound) -> None:
        """Show `finished`, unless another round was shown a moment ago."""
        if time.monotonic() - self._shown_at < _PAUSE_SECONDS:
            return
        committed = finished.committed
        title = f"round {committed.round_id}: {committed.accepted} of {committed.responses} accepted"
        _try(lambda: create_table_artifact(_miners(committed.records), key="round-miners", description=title))
        best = finished.best
        if best is not None:
            flip = f"{best.row['true_label_name']} → {best.row['adversarial_label_name']}"
            text = f"{title}; {flip}, L-inf {best.row['linf_levels']}/255"
            _try(lambda: create_image_artifact(_strip(best), key="round-pair", description=text))
        self._shown_at = time.monotonic()


def show_seal(manifest: Manifest, size: int) -> None:
    """Show counts and sizes of a sealed day, and its outcomes as bars."""
    rows: list[dict[str, Any]] = [
        {"what": "rounds", "value": manifest.rounds},
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
    """Show what a run added to a tier, and the distributions of the whole export (`plot`, a PNG)."""
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
    """Show any other table; `key` consists of lowercase letters, digits and dashes."""
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
    original, perturbed = pair_pixels(best)
    tiles = [original, perturbed, amplified_difference(original, perturbed)]
    return data_uri(np.concatenate(tiles, axis=1), side=3 * _SIDE)


def _png_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _try(publish: Callable[[], object]) -> None:
    """Publish, or log a warning where the server does not answer."""
    try:
        publish()
    except (httpx.HTTPError, PrefectException, OSError) as error:
        logger.warning("an artifact was not published: %s", error or type(error).__name__)
