"""A tree of image files, in the conventions of Hugging Face's ImageFolder and of public data sets."""

import logging
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perturb.schemas.challenge import Photo
from perturb.schemas.errors import SourceError
from perturb.schemas.printable import printable_name
from perturb.sources.decode import FORMATS, UnusableImage, read_photo
from perturb.sources.imagenet import class_names
from perturb.sources.tables import Files, TableRow, read_table
from perturb.sources.tree import (
    SUFFIXES,
    Shown,
    Tree,
    read_tree,
    says_something,
    shown_by_caption,
    shown_by_folders,
    shown_by_synset,
)

__all__ = ["SUFFIXES", "FolderSource"]

logger = logging.getLogger(__name__)

_ACCEPTED = f"a folder with {', '.join(FORMATS)} files, at any depth"


@dataclass(frozen=True)
class _Entry:
    """One image file and what is known about it before it is opened."""

    path: Path
    shown: Shown
    author: str | None = None
    license: str | None = None
    source_url: str | None = None


class FolderSource:
    """Every image under `directory`, links followed; hidden files, thumbnails and files of other kinds are skipped.

    The subject of an image is the name of its folder (`perturb.sources.tree.shown_by_folders`). A `metadata.csv`,
    `.jsonl` or `.parquet` beside or above the image takes precedence, the nearest one first: columns `file_name`
    (relative to that file), `label` (the subject), `class_index` (ImageNet-1k, 0 to 999), and, where known, `author`,
    `license`, `url`. `~` is the home folder.

    Endless: each pass over the folder has its own order.
    """

    name = "folder"

    def __init__(self, directory: str | os.PathLike[str]):
        named = printable_name(os.fspath(directory))
        try:
            root = Path(directory).expanduser().absolute()
        except RuntimeError as error:
            raise SourceError(f"source folder:{named}: {error}; accepted: {_ACCEPTED}") from error
        if not root.is_dir():
            reason = "is not a directory" if root.exists() else "is not there"
            raise SourceError(f"source folder:{named} {reason}; accepted: {_ACCEPTED}")
        # A folder's own name may be the subject, and ".." is not a name.
        self._root = root.resolve() if ".." in root.parts else root
        self._shown = f"folder:{printable_name(str(self._root))}"

    def photos(self, *, seed: int | None) -> Iterator[Photo]:
        """Yield photographs. Raises SourceError when the metadata is wrong, or when a pass found no usable image."""
        entries, remarks = self._entries()
        for remark in remarks:
            logger.warning("%s: %s", self._shown, remark)
        yield from self._passes(entries, random.Random(seed))

    def every_photo(self) -> Iterator[Photo]:
        """Yield each usable image once, in the order of their names; for benchmarks."""
        yield from self._usable(self._entries()[0], [])

    def check(self) -> str:
        """Read the metadata and open images until one is usable."""
        entries, remarks = self._entries()
        with_class = sum(entry.shown.true_class is not None for entry in entries)
        next(self._passes(list(entries), random.Random(0)))
        found = f"{self._shown} has {len(entries)} image files, {with_class} of a known class"
        return "; ".join([found, *remarks])

    def _passes(self, entries: list[_Entry], rng: random.Random) -> Iterator[Photo]:
        while True:
            rng.shuffle(entries)
            skipped: list[_Entry] = []
            yield from self._usable(entries, skipped)
            if len(skipped) == len(entries):
                raise SourceError(
                    f"source {self._shown} has no usable image ({len(skipped)} files were skipped, the log says "
                    f"why); accepted: {_ACCEPTED}"
                )
            logger.info("%s gave %d images, skipped %d", self._shown, len(entries) - len(skipped), len(skipped))
            # A file that could not be read once is not tried again, and not logged again.
            broken = set(skipped)
            entries = [entry for entry in entries if entry not in broken]

    def _usable(self, entries: list[_Entry], skipped: list[_Entry]) -> Iterator[Photo]:
        """Open the entries in order; those that cannot be used are added to `skipped`."""
        for entry in entries:
            try:
                yield self._open(entry)
            except UnusableImage as reason:
                skipped.append(entry)
                logger.warning("skipping %s: %s", self._id(entry), reason)

    def _entries(self) -> tuple[list[_Entry], list[str]]:
        """The image files, and what the operator has to know about them, a sentence each."""
        tree = read_tree(self._root)
        passed_over = tree.passed_over()
        if not tree.images:
            but = f" (skipped: {passed_over})" if passed_over else ""
            raise SourceError(f"source {self._shown} holds no image files{but}; accepted: {_ACCEPTED}")
        listed, missing = self._listed(tree)
        by_folder = {
            folder: shown_by_folders(folder, self._root, tree) for folder in {path.parent for path in tree.images}
        }
        entries = [_entry(path, listed.get(path), by_folder[path.parent]) for path in tree.images]
        remarks = []
        if missing:
            names = ", ".join(printable_name(str(path.relative_to(self._root))) for path in missing[:3])
            remarks.append(f"{len(missing)} files of the metadata are not there or not images: {names}")
        if passed_over:
            remarks.append(f"skipped: {passed_over}")
        unsaid = [entry.shown.subject for entry in entries if not entry.shown.said]
        if unsaid:
            subjects = ", ".join(repr(subject) for subject in sorted(set(unsaid))[:3])
            remarks.append(
                f"nothing says what {len(unsaid)} images show, so they are taken to show {subjects}; put them in "
                f"folders named by what they show, or list them in a metadata.csv"
            )
        return entries, remarks

    def _listed(self, tree: Tree) -> tuple[dict[Path, TableRow], list[Path]]:
        """What tables say about the image files, and the files of tables that are not among those."""
        files = Files(tree.images if tree.tables else ())
        rows: dict[Path, TableRow] = {}
        missing: list[Path] = []
        for table in sorted(tree.tables, key=lambda table: len(table.parts)):  # the nearest one last, so it counts
            for row in read_table(table, self._root):
                path = files.find(row.file)
                if path is None:
                    missing.append(row.file)
                else:
                    rows[path] = row
        return rows, missing

    def _open(self, entry: _Entry) -> Photo:
        return Photo(
            pixels=read_photo(entry.path),
            source=self.name,
            source_id=self._id(entry),
            source_url=entry.source_url,
            author=entry.author,
            license=entry.license,
            subject=entry.shown.subject,
            true_class=entry.shown.true_class,
        )

    def _id(self, entry: _Entry) -> str:
        return printable_name(entry.path.relative_to(self._root).as_posix())


def _entry(path: Path, row: TableRow | None, by_folder: Shown) -> _Entry:
    """What is known about an image from its row in a table, its folders and, where they say nothing, its caption."""
    shown = by_folder
    if row is not None and row.label is not None:
        shown = shown_by_synset(row.label) or Shown(row.label, said=says_something(row.label))
    elif row is not None and row.class_index is not None:
        shown = Shown(class_names()[row.class_index])
    elif not by_folder.said:
        shown = shown_by_caption(path) or by_folder
    if row is None:
        return _Entry(path, shown)
    if row.class_index is not None:
        shown = Shown(shown.subject, row.class_index)
    return _Entry(path, shown, author=row.author, license=row.license, source_url=row.url)
