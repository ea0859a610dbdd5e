"""Judgements kept in SQLite. There are at most 1000 x 1000 label pairs, so the language model is needed ever less."""

import logging
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from perturb.schemas.errors import ModelError
from perturb.schemas.private_files import make_private_folder

_TABLE = """
CREATE TABLE IF NOT EXISTS judgements (
    model TEXT NOT NULL, template TEXT NOT NULL, question TEXT NOT NULL,
    label INTEGER NOT NULL, target TEXT NOT NULL, score REAL NOT NULL,
    PRIMARY KEY (model, template, question, label, target)
) WITHOUT ROWID
"""
log = logging.getLogger(__name__)

_PATIENCE_S = 30.0
_BATCH = 200

Key = tuple[int, str]


class JudgementCache:
    """Scores of one model under one version of the prompts, in a SQLite file that several processes may share.

    Scores are deterministic, so two processes that compute the same score write the same row. `hits` and `misses`
    count the look-ups of this process.
    """

    def __init__(self, path: Path, *, model: str, template: str) -> None:
        self.path = path
        self.model = model
        self.template = template
        self.hits = 0
        self.misses = 0
        try:
            make_private_folder(path.parent)
            with closing(self._open()) as connection, connection:
                # With a write-ahead log readers never wait for the writer, and a killed writer leaves the file intact.
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise ModelError(
                f"the judge's cache {path} cannot be used: {error}; delete it, or set another PERTURB_CACHE_DIR"
            ) from error

    def get(self, question: str, keys: Iterable[Key]) -> dict[Key, float]:
        """Return the known scores of `keys` (label index, target)."""
        wanted = list(dict.fromkeys(keys))
        try:
            found = self._read(question, wanted)
        except sqlite3.Error as error:
            log.warning("the judge's cache %s cannot be read (%s); scores are computed instead", self.path, error)
            found = {}
        self.hits += len(found)
        self.misses += len(wanted) - len(found)
        return found

    def _read(self, question: str, wanted: list[Key]) -> dict[Key, float]:
        found: dict[Key, float] = {}
        with closing(self._open()) as connection:
            for first in range(0, len(wanted), _BATCH):
                batch = wanted[first : first + _BATCH]
                places = ",".join(["(?,?)"] * len(batch))
                rows = connection.execute(
                    "SELECT label, target, score FROM judgements WHERE model=? AND template=? AND question=? "
                    f"AND (label, target) IN (VALUES {places})",
                    (self.model, self.template, question, *(part for key in batch for part in key)),
                )
                found.update({(label, target): score for label, target, score in rows})
        return found

    def put(self, question: str, scores: Mapping[Key, float]) -> None:
        """Store `scores`; a row that another process wrote in the meantime is kept."""
        rows = [
            (self.model, self.template, question, label, target, score) for (label, target), score in scores.items()
        ]
        try:
            with closing(self._open()) as connection, connection:
                connection.executemany("INSERT OR IGNORE INTO judgements VALUES (?,?,?,?,?,?)", rows)
        except sqlite3.Error as error:
            log.warning(
                "the judge's cache %s cannot be written (%s); these scores will be computed again", self.path, error
            )

    def __len__(self) -> int:
        """Return the number of judgements of this model and these prompts."""
        with closing(self._open()) as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM judgements WHERE model=? AND template=?", (self.model, self.template)
            ).fetchone()
        return int(count)

    def of_others(self) -> int:
        """Return the number of judgements of other models or prompts, which are not used."""
        with closing(self._open()) as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM judgements WHERE model<>? OR template<>?", (self.model, self.template)
            ).fetchone()
        return int(count)

    def _open(self) -> sqlite3.Connection:
        # A connection for each batch: it may not cross threads or forks, and opening one takes 0.1 ms.
        return sqlite3.connect(self.path, timeout=_PATIENCE_S)
