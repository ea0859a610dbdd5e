"""The best accepted pairs of a corpus, ready to be drawn."""

from collections import Counter
from datetime import date

import pyarrow.dataset as ds

from perturb.schemas.errors import CorpusError
from perturb.schemas.outcome import Outcome
from perturb.schemas.pair import Pair
from perturb.sinks.corpus.corpus import Corpus


def pairs_of_corpus(corpus: Corpus, number: int, *, day: date | None = None) -> list[Pair]:
    """The best-scored accepted pair of each photograph, then the second best of each, `number` in all.

    Raises CorpusError when nothing was accepted (on that day).
    """
    accepted = ds.field("outcome") == Outcome.ACCEPTED
    table = corpus.dataset(days=[day] if day else None).to_table(filter=accepted)
    if not table.num_rows:
        raise CorpusError(
            f"there is no accepted record{f' on {day}' if day else ''} to draw; `perturb produce` makes some"
        )
    best = table.select(["original_sha256", "score", "record_id"]).to_pylist()
    order = sorted(range(len(best)), key=lambda place: (-best[place]["score"], best[place]["record_id"]))
    turn: Counter[str] = Counter()
    ranked = []
    for place in order:
        photograph = best[place]["original_sha256"]
        ranked.append((turn[photograph], place))
        turn[photograph] += 1
    chosen = [place for _, place in sorted(ranked, key=lambda pair: pair[0])[:number]]
    return corpus.read_pairs(table.take(chosen).to_pylist())
