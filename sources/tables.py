"""Tables that say what photographs show: metadata.csv, metadata.jsonl and metadata.parquet, as people write them."""

import codecs
import csv
import io
import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from perturb.schemas.errors import SourceError
from perturb.schemas.imagenet import NUM_CLASSES
from perturb.schemas.printable import printable_name

COLUMNS = ("file_name", "label", "class_index", "author", "license", "url")
_ACCEPTED = f"columns {', '.join(COLUMNS)}, of which file_name is required"
# What says what an image shows where there is no label; `text` is the captions' column of `datasets`.
_LABELS = ("label", "text", "caption")
# Pandas and spreadsheets write these where a value is missing.
_MISSING = frozenset(("", "nan", "none", "null", "na", "n/a", "<na>"))
_MAX_TEXT = 500

# A cell as the readers of the three forms give it.
Cell = object


@dataclass(frozen=True)
class TableRow:
    """What one line of a table says about `file`, a path below the table's own folder; None: it doesn't say."""

    file: Path
    label: str | None = None
    class_index: int | None = None
    author: str | None = None
    license: str | None = None
    url: str | None = None


def read_table(table: Path, root: Path) -> Iterator[TableRow]:
    """Yield the rows of a metadata table. Raises SourceError that names file and line where one is wrong.

    `root` is the folder that no row may lead out of.
    """
    shown = printable_name(str(table))
    try:
        read = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[table.suffix.lower()]
        for where, cells in read(table, shown):
            if any(_text(cell) is not None for cell in cells.values()):
                yield _row(cells, where, table=table, root=root)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{shown} can't be read ({_reason(error)})") from error


class Files:
    """The image files that rows are matched to: as they are named, else in another case or another Unicode form.

    A name that another program wrote differs from the disk's: macOS takes accents apart, Windows ignores case and
    separates folders by backslashes.
    """

    def __init__(self, paths: Iterable[Path]):
        self._paths = set(paths)
        alike = Counter(map(_folded, self._paths))
        self._folded = {_folded(path): path for path in self._paths if alike[_folded(path)] == 1}

    def find(self, path: Path) -> Path | None:
        """Return the file that `path` means, None where there is none."""
        if path in self._paths:
            return path
        return self._folded.get(_folded(path))


def _folded(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path).replace("\\", "/")).casefold()


def _csv(table: Path, shown: str) -> Iterator[tuple[str, Mapping[str, Cell]]]:
    text = _decoded(table.read_bytes(), shown)
    text = text if text.endswith(("\n", "\r")) else text + "\n"
    lines = io.StringIO(text, newline="")
    first = lines.readline()
    skipped = 0
    if first.lower().startswith("sep="):  # for spreadsheets
        first, skipped = lines.readline(), 1
    delimiter = next((mark for mark in ",;\t|" if "file_name" in _header(first, mark)), ",")
    header = _header(first, delimiter)
    if "file_name" not in header:
        raise SourceError(
            f"{shown} line {1 + skipped} has no column file_name; it has {', '.join(header)[:200] or 'nothing'}; "
            f"accepted: {_ACCEPTED}"
        )
    reader = csv.reader(lines, delimiter=delimiter)
    ended = 0
    try:
        for values in reader:
            where = f"{shown} line {ended + 2 + skipped}"
            ended = reader.line_num
            if len(values) > len(header) and any(value.strip() for value in values[len(header) :]):
                raise SourceError(
                    f"{where} has {len(values)} values for {len(header)} columns; put a value that holds {delimiter!r} "
                    f"in quotes"
                )
            # A value that is closed by the end of the file, and not by its quote, has the last line's end in it.
            if values and values[-1].endswith(("\n", "\r")) and lines.tell() == len(text):
                raise SourceError(f"{where}: the quote before {values[-1].splitlines()[0][:40]!r} is never closed")
            yield where, dict(zip(header, values, strict=False))
    except csv.Error as error:
        raise SourceError(f"{shown} line {reader.line_num + 1 + skipped} is not CSV ({error})") from error


def _header(line: str, delimiter: str) -> list[str]:
    try:
        return [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _decoded(data: bytes, shown: str) -> str:
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(
            f"{shown} line {line} is not UTF-8 (byte {data[error.start]:#04x}); save the table as UTF-8"
        ) from error


def _jsonl(table: Path, shown: str) -> Iterator[tuple[str, Mapping[str, Cell]]]:
    for number, line in enumerate(_decoded(table.read_bytes(), shown).split("\n"), start=1):
        where = f"{shown} line {number}"
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{where} is not JSON ({_reason(error)}); accepted: one object a line") from error
        if not isinstance(cells, dict):
            raise SourceError(f"{where} is a JSON {type(cells).__name__}; accepted: one object a line, not a list")
        yield where, {name.strip().lower(): cell for name, cell in cells.items()}


def _parquet(table: Path, shown: str) -> Iterator[tuple[str, Mapping[str, Cell]]]:
    with pq.ParquetFile(table) as file:
        names = {name.strip().lower(): name for name in file.schema_arrow.names}
        if "file_name" not in names:
            raise SourceError(
                f"{shown} has no column file_name; it has {', '.join(names)[:200]}; accepted: {_ACCEPTED}"
            )
        wanted = {name: names[name] for name in (*COLUMNS, *_LABELS) if name in names}
        classes = _class_names(file.schema_arrow, wanted.get("label"))
        number = 0
        for batch in file.iter_batches(columns=list(wanted.values())):
            for values in batch.to_pylist():
                number += 1
                cells = {name: values[column] for name, column in wanted.items()}
                label = cells.get("label")
                if classes and isinstance(label, int):
                    cells["label"] = classes[label] if 0 <= label < len(classes) else None
                yield f"{shown} row {number}", cells


def _class_names(schema: pa.Schema, column: str | None) -> list[str]:
    """Return the names of a column of class numbers, which `datasets` keeps in the schema's metadata."""
    try:
        kept = json.loads((schema.metadata or {})[b"huggingface"])
        return [str(name) for name in kept["info"]["features"][column]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _row(cells: Mapping[str, Cell], where: str, *, table: Path, root: Path) -> TableRow:
    name = cells.get("file_name")
    name = name.strip() if isinstance(name, str) else ""
    if not name or "\0" in name:
        raise SourceError(f"{where} has no usable file_name; accepted: {_ACCEPTED}")
    # A backslash is Windows' separator, so it must not lead out either.
    for spelled in (name, name.replace("\\", "/")):
        path = Path(os.path.normpath(table.parent / spelled))
        if Path(spelled).is_absolute() or not path.is_relative_to(root):
            shown = printable_name(str(root))
            raise SourceError(f"{where}: file_name {name!r} leads out of {shown}; accepted: paths inside it")
    values = {column: _one_text(cells.get(column), column, where) for column in (*_LABELS, "author", "license", "url")}
    return TableRow(
        file=Path(os.path.normpath(table.parent / name)),
        label=next((values[column] for column in _LABELS if values[column]), None),
        class_index=_class_index(cells.get("class_index"), where),
        author=values["author"],
        license=values["license"],
        url=values["url"],
    )


def _one_text(cell: Cell, column: str, where: str) -> str | None:
    if isinstance(cell, (list, dict, bytes)):
        raise SourceError(f"{where}: {column} is a {type(cell).__name__}; accepted: one text")
    return _text(cell)


def _text(cell: Cell) -> str | None:
    text = "" if cell is None else " ".join(str(cell).split())
    if isinstance(cell, float) and cell.is_integer():
        text = str(int(cell))
    return None if text.lower() in _MISSING else text[:_MAX_TEXT]


def _class_index(cell: Cell, where: str) -> int | None:
    text = _text(cell)
    if text is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    # A gap in a column of integers makes spreadsheets and pandas write the others as 285.0 or 285,0.
    found = re.fullmatch(r"([0-9]{1,9})(?:[.,]0*)?", text)
    if isinstance(cell, bool) or found is None or int(found[1]) >= NUM_CLASSES:
        raise SourceError(
            f"{where}: class_index {text!r} is not an ImageNet-1k class; accepted: 0 to {NUM_CLASSES - 1}"
        )
    return int(found[1])


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
