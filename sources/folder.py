"""A tree of image files, in the conventions of Hugging Face's ImageFolder."""

import csv
import logging
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perturb.schemas.challenge import Photo
from perturb.schemas.errors import SourceError
from perturb.schemas.imagenet import NUM_CLASSES
from perturb.sources.decode import FORMATS, UnusableImage, read_photo
from perturb.sources.imagenet import class_names, class_of_synset

logger = logging.getLogger(__name__)

SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
_ACCEPTED = f"a folder with {', '.join(FORMATS)} files, at any depth"


@dataclass(frozen=True)
class _Entry:
    """One image file and what is known of it before it is opened."""

    path: Path
    subject: str
    true_class: int | None = None
    author: str | None = None
    license: str | None = None
    source_url: str | None = None


class FolderSource:
    """Every image under `directory`; hidden files and files with other suffixes are passed over.

    What an image shows is the name of its parent folder (a WordNet id such as `n01440764` gives its ImageNet class
    as well), unless a `metadata.csv` beside or above it lists it: columns `file_name` (relative to that file),
    `label` (what it shows), `class_index` (ImageNet-1k, 0 to 999), and, where known, `author`, `license`, `url`.

    Endless: each pass over the folder has its own order.
    """

    name = "folder"

    def __init__(self, directory: str | os.PathLike[str]):
        self._root = Path(directory).expanduser()
        if not self._root.is_dir():
            raise SourceError(f"source folder:{directory} is not a directory; accepted: {_ACCEPTED}")

    def photos(self, *, seed: int | None) -> Iterator[Photo]:
        """Raises SourceError when metadata.csv is wrong, or when a whole pass found no usable image."""
        entries = self._entries()
        rng = random.Random(seed)
        while True:
            rng.shuffle(entries)
            skipped: list[_Entry] = []
            yield from self._usable(entries, skipped)
            if len(skipped) == len(entries):
                raise SourceError(
                    f"source folder:{self._root} has no usable image ({len(skipped)} files were skipped, the log says "
                    f"why); accepted: {_ACCEPTED}"
                )
            logger.info("folder:%s gave %d images, skipped %d", self._root, len(entries) - len(skipped), len(skipped))
            # What couldn't be read once needs no second look, and no second line in the log.
            broken = set(skipped)
            entries = [entry for entry in entries if entry not in broken]

    def every_photo(self) -> Iterator[Photo]:
        """Each usable image once, in the order of their names; for benchmarks."""
        yield from self._usable(self._entries(), [])

    def check(self) -> str:
        """Reads the metadata and opens images until one is usable."""
        entries = self._entries()
        next(self.photos(seed=0))
        with_class = sum(entry.true_class is not None for entry in entries)
        return f"folder:{self._root} has {len(entries)} image files, {with_class} of a known class"

    def _usable(self, entries: list[_Entry], skipped: list[_Entry]) -> Iterator[Photo]:
        """Opens the entries one after the other; those that can't be used are added to `skipped`."""
        for entry in entries:
            try:
                yield self._open(entry)
            except UnusableImage as reason:
                skipped.append(entry)
                logger.warning("skipping %s: %s", self._id(entry), reason)

    def _entries(self) -> list[_Entry]:
        files = sorted(path for path in self._root.rglob("*") if self._is_image(path))
        listed = self._listed()
        missing = listed.keys() - set(files)
        if missing:
            names = ", ".join(str(path.relative_to(self._root)) for path in sorted(missing)[:3])
            logger.warning("%d files of metadata.csv are not there or no images: %s", len(missing), names)
        if not files:
            raise SourceError(f"source folder:{self._root} holds no image files; accepted: {_ACCEPTED}")
        return [listed.get(path) or _by_folder(path) for path in files]

    def _is_image(self, path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(self._root).parts)
        return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()

    def _listed(self) -> dict[Path, _Entry]:
        entries: dict[Path, _Entry] = {}
        for table in sorted(self._root.rglob("metadata.csv")):
            try:
                with table.open(encoding="utf-8-sig", newline="") as file:
                    for number, row in enumerate(csv.DictReader(file), start=2):
                        entry = self._row(table, number, row)
                        entries[entry.path] = entry
            except (OSError, UnicodeDecodeError, csv.Error) as error:
                raise SourceError(f"{table} can't be read ({error}); accepted: UTF-8 CSV with a header line") from error
        return entries

    def _row(self, table: Path, number: int, row: dict[str, str | None]) -> _Entry:
        where = f"{table} line {number}"
        name = (row.get("file_name") or "").strip()
        if not name or "\0" in name:
            raise SourceError(f"{where} has no usable file_name; accepted: columns file_name, label, class_index")
        path = Path(os.path.normpath(table.parent / name))
        if Path(name).is_absolute() or not path.is_relative_to(os.path.normpath(self._root)):
            raise SourceError(f"{where}: file_name {name!r} leads out of {self._root}; accepted: paths inside it")
        label = (row.get("label") or "").strip()
        true_class = _class_index(row.get("class_index"), where)
        if not label:
            label = _by_folder(path).subject if true_class is None else class_names()[true_class]
        return _Entry(
            path=path,
            subject=label,
            true_class=true_class,
            author=row.get("author") or None,
            license=row.get("license") or None,
            source_url=row.get("url") or None,
        )

    def _open(self, entry: _Entry) -> Photo:
        return Photo(
            pixels=read_photo(entry.path),
            source=self.name,
            source_id=self._id(entry),
            source_url=entry.source_url,
            author=entry.author,
            license=entry.license,
            subject=entry.subject,
            true_class=entry.true_class,
        )

    def _id(self, entry: _Entry) -> str:
        return entry.path.relative_to(self._root).as_posix()


def _class_index(text: str | None, where: str) -> int | None:
    if text is None or not text.strip():
        return None
    if not text.strip().isdecimal() or int(text) >= NUM_CLASSES:
        raise SourceError(f"{where}: class_index {text!r} is no ImageNet-1k class; accepted: 0 to {NUM_CLASSES - 1}")
    return int(text)


def _by_folder(path: Path) -> _Entry:
    folder = path.absolute().parent.name
    index = class_of_synset().get(folder)
    if index is not None:
        return _Entry(path=path, subject=class_names()[index], true_class=index)
    return _Entry(path=path, subject=folder.replace("_", " ").strip())
