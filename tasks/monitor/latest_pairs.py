"""The youngest accepted pairs of a corpus, ready to be drawn."""

import numpy as np
import pyarrow.dataset as ds

from perturb.schemas.outcome import Outcome
from perturb.schemas.record import Row
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.report.contact_sheet import amplified_difference
from perturb.sinks.report.status_page import Picture


def latest_pictures(corpus: Corpus, number: int) -> list[Picture]:
    """The best accepted pair of each of the youngest rounds, `number` at most; empty where nothing was accepted."""
    return [make_picture(pair.row, *pair.pixels()) for pair in corpus.read_pairs(_best_rows(corpus, number))]


def make_picture(row: Row, original: np.ndarray, perturbed: np.ndarray) -> Picture:
    """A pair, its difference, and the record's columns that say what it shows."""
    changed = f"L-inf {row['linf_levels']}/255, SSIM {row['ssim']:.5f}, PSNR {row['psnr']:.1f} dB"
    return Picture(
        original=original,
        perturbed=perturbed,
        difference=amplified_difference(original, perturbed),
        title=f"{row['true_label_name']} → {row['adversarial_label_name']}",
        caption=f"{changed}, score {row['score']:.3f} in {row['response_ms']:.0f} ms, {row['miner_hotkey']}",
    )


def _best_rows(corpus: Corpus, number: int) -> list[Row]:
    live = corpus.live_rounds()
    rows: list[Row] = []
    for ref in reversed(live[-4 * number :]):
        accepted = [row for row in corpus.read_round(ref).rows if row["outcome"] == Outcome.ACCEPTED]
        rows += [max(accepted, key=lambda row: row["score"])] if accepted else []
        if len(rows) == number:
            return rows
    if not rows and (days := corpus.sealed_days()):
        table = corpus.dataset(days=days[-1:]).to_table(filter=ds.field("outcome") == Outcome.ACCEPTED)
        best = {row["round_id"]: row for row in table.sort_by("score").to_pylist()}
        rows = [best[round_id] for round_id in sorted(best, reverse=True)[:number]]
    return rows
