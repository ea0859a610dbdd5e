"""What an export contains: the indexes of its days, added up, so that one read replaces one for each day.

The object is derived from the indexes of the days and replaced whenever days are added. Where it is missing it is made
again from all of them.
"""

from collections.abc import Iterable
from datetime import date
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import CorpusError
from perturb.sinks.dataset.day_index import DayIndex, ExportFile, Statistics, add_up, export_version, read_day_indexes
from perturb.sinks.dataset.keys import contents_key
from perturb.sinks.stores.base import ObjectMissing, Store

FORMAT = 1


class ExportContents(BaseModel):
    """The days of an export in their order, each with the root of its sealed day, their files and statistics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    tier: str
    days: dict[date, str] = {}
    records: int = 0
    files: tuple[ExportFile, ...] = ()
    statistics: Statistics = Statistics()

    @property
    def until(self) -> date | None:
        """The last exported day."""
        return max(self.days, default=None)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def version(self) -> str:
        """`1.N.0` after N days."""
        return export_version(len(self.days))

    def plus(self, indexes: Iterable[DayIndex]) -> Self:
        """Return the contents with more days, which come after those that are there."""
        ordered = sorted(indexes, key=lambda index: index.day)
        return self.model_copy(
            update={
                "days": self.days | {index.day: index.merkle_root for index in ordered},
                "records": self.records + sum(index.records for index in ordered),
                "files": self.files + tuple(file for index in ordered for file in index.files),
                "statistics": add_up([self.statistics, *(index.statistics for index in ordered)]),
            }
        )


def read_contents(store: Store, tier: str) -> ExportContents:
    """Return what the export of a tier contains.

    One read and one listing of the days after the last that was added up; their indexes are read, which an interrupted
    run may have left. Raises CorpusError for a damaged object.
    """
    key = contents_key(tier)
    try:
        contents = ExportContents.model_validate_json(store.get(key))
    except ObjectMissing:
        contents = ExportContents(tier=tier)
    except ValidationError as error:
        raise CorpusError(
            f"{key} is not the contents of an export ({error.errors()[0]['msg']}); delete it, and it is made again"
        ) from error
    return contents.plus(read_day_indexes(store, tier, after=contents.until))


def write_contents(store: Store, contents: ExportContents) -> None:
    """Replace the object. It comes before the card: readers of the card do not need it."""
    store.put(contents_key(contents.tier), canonical_json(contents.model_dump(mode="json")) + b"\n")
