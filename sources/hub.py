"""The image column of a Hugging Face dataset, streamed: rows are downloaded as they are used."""

import logging
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from perturb.schemas.challenge import Photo
from perturb.schemas.errors import SourceError
from perturb.schemas.image import Pixels
from perturb.schemas.imagenet import NUM_CLASSES
from perturb.schemas.printable import printable_name
from perturb.schemas.settings import HubSettings
from perturb.sources.decode import MAX_BYTES, UnusableImage, decode_photo
from perturb.sources.imagenet import class_names
from perturb.sources.local_dataset import LocalDataset
from perturb.sources.tree import shown_by_synset

if TYPE_CHECKING:
    import datasets

_Row = dict[str, object]
logger = logging.getLogger(__name__)

# Rows within which a stream is shuffled: undecoded images, so some tens of megabytes.
_SHUFFLE_ROWS = 256
_MAX_FAILURES = 50
_ACCEPTED = "a dataset's id on the Hub or a local folder"


class HubSource:
    """Rows of the dataset `name`: a Hub ID, or a local folder or file that `datasets` reads. `~` is the home folder.

    `settings` names split, configuration and columns. The label column holds ImageNet-1k's class index; the subject
    is in the subject column or, without one, is the class's name. With neither set, a column named `label` is the
    subject. Where a local folder of images has no such column, or leaves it empty, the names of its folders are the
    subject. A WordNet ID as subject gives the class. Without a column `image`, the only column of images is taken.
    Endless: the dataset is streamed again, in another order, when it ends. Rows are shuffled within a window only,
    so that the stream stays a stream.
    """

    def __init__(self, name: str, settings: HubSettings):
        try:
            path = Path(name).expanduser()
        except RuntimeError as error:
            raise SourceError(f"source hub:{printable_name(name)}: {error}; accepted: {_ACCEPTED}") from error
        self._local = LocalDataset(path.resolve()) if path.exists() else None
        self._dataset = str(path) if name.startswith("~") else name
        self._settings = settings
        # A record must not reveal where on the operator's disk a local dataset is.
        self.name = f"hub:{printable_name(self._local.path.name if self._local else name)}"

    def photos(self, *, seed: int | None) -> Iterator[Photo]:
        """Yield photographs. Raises SourceError where dataset or column do not exist, or after fifty unusable rows."""
        rows, image_column, remark = self._open()
        if remark:
            logger.warning("%s: %s", self.name, remark)
        yield from self._photos(rows, image_column, seed)

    def check(self) -> str:
        """Stream rows until one is usable."""
        rows, image_column, remark = self._open()
        photo = next(self._photos(rows, image_column, 0))
        height, width, _ = photo.pixels.shape
        found = f"{self.name} answers: its first image has {width} x {height} pixels, subject {photo.subject!r}"
        return f"{found}; {remark}" if remark else found

    def _photos(self, rows: "datasets.IterableDataset", image_column: str, seed: int | None) -> Iterator[Photo]:
        subject_of = self._subject_reader(rows.features)
        # One shard at a time: `datasets` waits five seconds after reading several in its threads.
        shuffled = rows.shuffle(
            seed=secrets.randbits(32) if seed is None else seed, buffer_size=_SHUFFLE_ROWS, max_buffer_input_shards=1
        )
        failures = 0
        for row in self._rows(shuffled):
            try:
                photo = self._photo(row, subject_of, image_column)
            except UnusableImage as reason:
                failures += 1
                logger.warning("skipping a row of %s: %s", self.name, reason)
                if failures == _MAX_FAILURES:
                    raise SourceError(
                        f"source {self.name}: {failures} rows one after the other cannot be used; the last: {reason}"
                    ) from reason
                continue
            failures = 0
            yield photo

    def _open(self) -> tuple["datasets.IterableDataset", str, str]:
        """The rows, their image column, and which files of a local folder are not used, empty for none."""
        import datasets

        wanted = self._settings
        try:
            if self._local:
                rows, remark = self._local.load(wanted)
            else:
                rows = datasets.load_dataset(self._dataset, wanted.config, split=wanted.split, streaming=True)
                remark = ""
            image_column = wanted.image_column
            if rows.features is None:
                return rows, image_column, remark
            if image_column == "image" and image_column not in rows.features:
                images = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
                image_column = images[0] if len(images) == 1 else image_column
            used = (image_column, wanted.label_column, wanted.subject_column)
            missing = [column for column in used if column is not None and column not in rows.features]
            if missing:
                raise SourceError(
                    f"source {self.name} has no column {missing[0]!r}; it has {', '.join(rows.features)} "
                    f"(set hub.image_column, hub.label_column, hub.subject_column)"
                )
            self._check_label(rows.features)
            # Undecoded, because `datasets` would decode without the checks of `decode_photo`.
            if isinstance(rows.features[image_column], datasets.Image):
                rows = rows.cast_column(image_column, datasets.Image(decode=False))
            return rows, image_column, remark
        except _failures() as error:
            raise self._unreachable(error) from error

    def _check_label(self, features: "datasets.Features") -> None:
        column = self._settings.label_column
        if column is None:
            return
        count = getattr(features[column], "num_classes", NUM_CLASSES)
        if count != NUM_CLASSES:
            raise SourceError(
                f"source {self.name}: column {column!r} has {count} classes, ImageNet-1k has {NUM_CLASSES}; "
                f"set it as hub.subject_column instead"
            )

    def _subject_reader(self, features: "datasets.Features | None") -> Callable[[_Row], str | None]:
        """A function from a row to its subject; a column of class numbers is read as their names."""
        column = self._settings.subject_column
        if column is None and self._settings.label_column is None:
            column = "label"
            if features is not None and column not in features:
                if self._local and set(features) == {"image"}:
                    return lambda row: None  # an image folder without labels: the names of its folders are the subjects
                raise SourceError(
                    f"source {self.name} does not say what its images show, so no label could be checked; set "
                    f"hub.subject_column or hub.label_column to one of its columns: {', '.join(features)}"
                )
        names: list[str] = getattr(features[column], "names", []) if column and features is not None else []

        def subject(row: _Row) -> str | None:
            value = row.get(column) if column else None
            if isinstance(value, int) and 0 <= value < len(names):
                value = names[value].replace("_", " ")
            text = "" if value is None else str(value).strip()
            return text[:200] or None

        return subject

    def _rows(self, rows: "datasets.IterableDataset") -> Iterator[_Row]:
        epoch = 0
        try:
            while True:
                rows.set_epoch(epoch)
                empty = True
                for row in rows:
                    empty = False
                    yield row
                if empty:
                    raise SourceError(f"source {self.name} has no rows in split {self._settings.split!r}")
                epoch += 1
        except _failures() as error:
            raise self._unreachable(error) from error

    def _photo(self, row: _Row, subject_of: Callable[[_Row], str | None], image_column: str) -> Photo:
        true_class, subject = self._class(row), subject_of(row)
        pixels, source_id, file = self._image(row, image_column)
        if true_class is not None:
            subject = subject or class_names()[true_class]
        else:
            known = shown_by_synset(subject) if subject else None
            if subject is None and file is not None and self._local:
                known = self._local.shown(file)
            if known:
                subject, true_class = known.subject, known.true_class
        if subject is None:
            raise UnusableImage("its subject is empty, so that no label could be checked")
        return Photo(
            pixels=pixels,
            source=self.name,
            source_id=source_id,
            source_url=None if self._local else f"https://huggingface.co/datasets/{self._dataset}",
            subject=subject,
            true_class=true_class,
        )

    def _class(self, row: _Row) -> int | None:
        column = self._settings.label_column
        if column is None:
            return None
        value = row.get(column)
        if isinstance(value, int) and 0 <= value < NUM_CLASSES:
            return value
        raise UnusableImage(f"its {column} is {value!r}; accepted: ImageNet-1k class indices, 0 to {NUM_CLASSES - 1}")

    def _image(self, row: _Row, column: str) -> tuple[Pixels, str, Path | None]:
        """Pixels and ID of a row's image, and its file where it is one of a local dataset."""
        cell = row.get(column)
        if isinstance(cell, bytes):
            cell = {"bytes": cell}
        if isinstance(cell, str) and self._local:
            cell = {"path": str(self._local.folder / cell)}  # as tables of other programs name files
        if not isinstance(cell, dict):
            raise UnusableImage(f"its {column} holds {type(cell).__name__} instead of an image")
        path = str(cell.get("path") or "")
        file = self._local.find(path) if self._local else None
        if self._local and file and self._local.is_litter(file):
            raise UnusableImage(f"{printable_name(path)[-200:]} is hidden or a thumbnail")
        data = cell.get("bytes")
        if data is None:
            data = self._fetch(path)
        if len(data) > MAX_BYTES:
            raise UnusableImage(f"it has {len(data):,} bytes; accepted: up to {MAX_BYTES:,}")
        return decode_photo(data), _row_id(path, data), file

    def _fetch(self, path: str) -> bytes:
        """The content of a file that a row refers to. Rows are untrusted, so the file must belong to the dataset."""
        import fsspec  # type: ignore[import-untyped]

        if not self._belongs(path):
            raise UnusableImage("it refers to a file outside its dataset")
        try:
            with fsspec.open(path, "rb") as file:
                data: bytes = file.read(MAX_BYTES + 1)
                return data
        except (OSError, ValueError) as error:
            raise UnusableImage(f"its file can't be read ({type(error).__name__})") from error

    def _belongs(self, path: str) -> bool:
        if self._local is not None:
            return self._local.find(path) is not None
        *members, archive = path.split("::")
        own = archive.startswith((f"hf://datasets/{self._dataset}/", f"hf://datasets/{self._dataset}@"))
        return own and ".." not in archive and all(member.startswith(("zip://", "tar://")) for member in members)

    def _unreachable(self, error: Exception) -> SourceError:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
        # The long reasons of `datasets` begin and end with what happened; between them is a schema.
        reason = printable_name(lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}")[:300]
        return SourceError(
            f"source hub:{printable_name(self._dataset)} can't be read ({type(error).__name__}: {reason}); "
            f"accepted: {_ACCEPTED}; set hub.config and hub.split if it has others"
            + ("; a tree of image files is read by source folder:DIR" if self._local else "")
        )


def _row_id(path: str, data: bytes) -> str:
    """The file's name, if any, and a part of its digest, which distinguishes files of the same name."""
    import hashlib

    name = printable_name(path.partition("::")[0].rpartition("/")[2])[-100:]
    digest = hashlib.sha256(data).hexdigest()[:16]
    return f"{name}#{digest}" if name else digest


def _failures() -> tuple[type[Exception], ...]:
    """The errors of loading and streaming when the Hub, the network or the data is at fault."""
    import httpx
    import pyarrow as pa
    from datasets.exceptions import DatasetsError

    return DatasetsError, httpx.HTTPError, pa.ArrowException, OSError, ValueError
