"""Audits that each task, and so each round, is in the corpus once."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date

from perturb.schemas.errors import CorpusError
from perturb.schemas.record import record_day
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing


class TaskAuditor:
    """Finds tasks that occur in two places. A task belongs to one round, so that round is in the corpus twice.

    `since` is the first day that the audit reads, None where it reads all. A record's ID begins with the day of its
    challenge, so a task that may be in a day before `since` is known by its record. Only the days that may hold such a
    record are read, not all days before `since`.
    """

    def __init__(self, corpus: Corpus, since: date | None):
        self._corpus, self._since = corpus, since
        self._places: dict[str, str] = {}
        # Task -> place and the first of its record IDs, for challenges made before the days that the audit reads.
        self._older: dict[str, tuple[str, str]] = {}

    def add(self, tasks: Mapping[str, str], where: str) -> Iterator[tuple[str, str]]:
        """Yield the faults of a round or day as `(where, sentence)`. `tasks` are task IDs, each with a record's ID."""
        for task_id, record_id in tasks.items():
            if (first := self._places.setdefault(task_id, where)) != where:
                yield where, _twice(task_id, first)
            made = record_day(record_id)
            if self._since is not None and made is not None and made < self._since:
                self._older.setdefault(task_id, (where, record_id))

    def older_faults(self) -> Iterator[tuple[str, str]]:
        """Yield the faults of tasks that are in a day before `since` too. Raises StoreError."""
        by_day: dict[date | None, list[str]] = defaultdict(list)
        for task_id, (_, record_id) in self._older.items():
            by_day[record_day(record_id)].append(task_id)
        wanted: dict[str, set[str]] = defaultdict(set)
        manifests: dict[str, Manifest] = {}
        for tasks in by_day.values():
            where, record_id = self._older[tasks[0]]
            try:
                days = self._corpus.days_of(record_id)
            except (CorpusError, ObjectCorrupt) as error:
                yield where, f"records of its challenges' days cannot be compared: {error}"
                continue
            for manifest in days:
                if self._since is not None and manifest.day < self._since:
                    manifests[manifest.attempt] = manifest
                    wanted[manifest.attempt].update(tasks)
        for attempt, among in wanted.items():
            yield from self._in_day(manifests[attempt], among)

    def _in_day(self, manifest: Manifest, tasks: set[str]) -> Iterator[tuple[str, str]]:
        import pyarrow as pa
        import pyarrow.dataset as ds

        key = keys.manifest_key(manifest.day)
        try:
            found = self._corpus.metadata(manifest).to_table(
                columns=["task_id"], filter=ds.field("task_id").isin(sorted(tasks))
            )
        except (pa.ArrowInvalid, FileNotFoundError, ObjectMissing) as error:
            yield key, f"its metadata cannot be read, so that later copies of its tasks are not found: {error}"
            return
        for task_id in sorted(set(found["task_id"].to_pylist())):
            yield self._older[task_id][0], _twice(task_id, key)


def _twice(task_id: str, where: str) -> str:
    return f"task {task_id} is in {where} too: its records are in the corpus twice"
