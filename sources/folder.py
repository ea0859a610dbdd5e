"""A tree of image files, in the conventions of Hugging Face's ImageFolder."""

import logging
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perturb.schemas.challenge import Photo
from perturb.schemas.errors import SourceError
from perturb.schemas.imagenet import NUM_CLASSES
from perturb.sources.decode import FORMATS, UnusableImage, read_photo
from perturb.sources.imagenet import class_names, class_of_synset
from perturb.sources.metadata_table import TABLES, Row, read_table

logger = logging.getLogger(__name__)

SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
# Photographs of formats that are not decoded here. Their number is logged.
OTHER_IMAGES = {".heic", ".heif", ".avif", ".mpo", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".psd"}
# Levels of folders between a class and its images, whose names say nothing about them.
_LEVELS = {"images", "image", "imgs", "img", "photos", "pictures", "jpegimages", "jpeg", "jpg", "png"}
_LITTER = {"@eadir", "@recycle", "#recycle", "#snapshot", "__macosx", "$recycle.bin", "lost+found", "thumbs.db"}
_ACCEPTED = f"a folder with {', '.join(FORMATS)} files, at any depth"


@dataclass(frozen=True)
class _Entry:
    """One image file and what is known about it before it is opened."""

    path: Path
    subject: str
    true_class: int | None = None
    author: str | None = None
    license: str | None = None
    source_url: str | None = None


class FolderSource:
    """Every image under `directory`, links followed; hidden files and files with other suffixes are skipped.

    The subject of an image is the name of its parent folder, without a number in front and above levels such as
    `images`. A WordNet ID such as `n01440764` gives its ImageNet class as well. A `metadata.csv`, `.jsonl` or
    `.parquet` beside or above the image takes precedence: columns `file_name` (relative to that file), `label` (the
    subject), `class_index` (ImageNet-1k, 0 to 999), and, where known, `author`, `license`, `url`.

    Endless: each pass over the folder has its own order.
    """

    name = "folder"

    def __init__(self, directory: str | os.PathLike[str]):
        self._root = Path(directory).expanduser()
        if not self._root.is_dir():
            raise SourceError(f"source folder:{directory} is not a directory; accepted: {_ACCEPTED}")

    def photos(self, *, seed: int | None) -> Iterator[Photo]:
        """Yield photographs. Raises SourceError when the metadata is wrong, or when a pass found no usable image."""
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
            # A file that could not be read once is not tried again, and not logged again.
            broken = set(skipped)
            entries = [entry for entry in entries if entry not in broken]

    def every_photo(self) -> Iterator[Photo]:
        """Yield each usable image once, in the order of their names; for benchmarks."""
        yield from self._usable(self._entries(), [])

    def check(self) -> str:
        """Read the metadata and open images until one is usable."""
        entries = self._entries()
        next(self.photos(seed=0))
        with_class = sum(entry.true_class is not None for entry in entries)
        return f"folder:{self._root} has {len(entries)} image files, {with_class} of a known class"

    def _usable(self, entries: list[_Entry], skipped: list[_Entry]) -> Iterator[Photo]:
        """Open the entries in order; those that cannot be used are added to `skipped`."""
        for entry in entries:
            try:
                yield self._open(entry)
            except UnusableImage as reason:
                skipped.append(entry)
                logger.warning("skipping %s: %s", self._id(entry), reason)

    def _entries(self) -> list[_Entry]:
        files, tables = self._walk()
        listed = self._listed(tables)
        missing = listed.keys() - set(files)
        if missing:
            names = ", ".join(printable_name(path.relative_to(self._root)) for path in sorted(missing)[:3])
            logger.warning("%d files of the metadata are not there or not images: %s", len(missing), names)
        if not files:
            raise SourceError(f"source folder:{self._root} holds no image files; accepted: {_ACCEPTED}")
        return [listed.get(path) or self._by_folder(path) for path in files]

    def _walk(self) -> tuple[list[Path], list[Path]]:
        """The image files and the tables of metadata, each sorted. Links are followed, each folder is read once."""
        files: list[Path] = []
        tables: list[Path] = []
        others: Counter[str] = Counter()
        seen: set[str] = set()
        for place, folders, names in os.walk(self._root, followlinks=True):
            # Sorted, so that of two ways to a folder the same one is taken each time.
            folders[:] = sorted(name for name in folders if not _passed_over(name))
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            for name in names:
                path = Path(place, name)
                suffix = path.suffix.lower()
                if name in TABLES:
                    tables.append(path)
                elif not _passed_over(name) and suffix in SUFFIXES and path.is_file():
                    files.append(path)
                elif suffix in OTHER_IMAGES:
                    others[suffix] += 1
        if others:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
            logger.warning("%s holds images of other formats, which are skipped: %s", self._root, kinds)
        return sorted(files), sorted(tables)

    def _listed(self, tables: list[Path]) -> dict[Path, _Entry]:
        entries: dict[Path, _Entry] = {}
        for table in tables:
            for number, row in read_table(table):
                entry = self._row(table, number, row)
                entries[entry.path] = entry
        return entries

    def _row(self, table: Path, number: int, row: Row) -> _Entry:
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
            label = self._by_folder(path).subject if true_class is None else class_names()[true_class]
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

    def _by_folder(self, path: Path) -> _Entry:
        """What the folders above an image say: the nearest name that means something, the root's own included."""
        root = Path(os.path.normpath(self._root.absolute()))
        parent = Path(os.path.normpath(path.absolute())).parent
        for folder in (parent, *parent.parents):
            index = class_of_synset().get(folder.name)
            if index is not None:
                return _Entry(path=path, subject=class_names()[index], true_class=index)
            subject = _subject(folder.name)
            if subject and folder.name.lower() not in _LEVELS:
                return _Entry(path=path, subject=subject)
            if folder == root:
                break
        return _Entry(path=path, subject=_subject(parent.name) or printable_name(Path(parent.name)))

    def _id(self, entry: _Entry) -> str:
        return printable_name(entry.path.relative_to(self._root))


def printable_name(path: Path) -> str:
    r"""Return a path as text that can be stored and printed, and from which the path can be had back.

    Bytes that are not UTF-8 become `\xNN`, control characters `\n` or `\u202e`, and a backslash `\\`.
    """
    text = path.as_posix().replace("\\", "\\\\")
    return "".join(_printable(character) for character in text)


def _printable(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # How Python holds a byte of a name that is not UTF-8.
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def _subject(name: str) -> str:
    """The words of a folder's name: without the number in front of a class, `_` as spaces; empty without a letter."""
    text = printable_name(Path(re.sub(r"^\d+[._ -]+(?=\D)", "", name))).replace("_", " ").strip()
    return text if any(character.isalpha() for character in text) else ""


def _passed_over(name: str) -> bool:
    """Whether a file or folder is hidden, or belongs to a file manager, an archiver or a network disk."""
    return name.startswith(".") or name.lower() in _LITTER


def _class_index(text: str | None, where: str) -> int | None:
    if text is None or not text.strip():
        return None
    # A column with gaps is often written as floats.
    digits = re.sub(r"\.0+$", "", text.strip())
    if not digits.isdecimal() or int(digits) >= NUM_CLASSES:
        raise SourceError(
            f"{where}: class_index {text!r} is not an ImageNet-1k class; accepted: 0 to {NUM_CLASSES - 1}"
        )
    return int(digits)
