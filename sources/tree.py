"""A folder of photographs as people have it: which files are images, and what the names of its folders say."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from perturb.schemas.printable import printable_name, storable_text
from perturb.sources.imagenet import class_names, class_of_synset, name_of_synset

SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".webp"),
        *(".tif", ".tiff", ".bmp", ".dib", ".gif"),
    }
)
#: The tables that `datasets` reads beside images; compared in lower case.
TABLES = frozenset(("metadata.csv", "metadata.jsonl", "metadata.parquet"))

# Folders that file servers, archives and viewers keep beside photographs: thumbnails, bins, snapshots.
_LITTER = frozenset(
    {
        *("__macosx", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found"),
        *("thumbs", "_thumbs", "thumbnails", "_thumbnails"),
    }
)
# Levels of a tree that say what its files are, not what they show.
_HOLDERS = frozenset(
    {
        *("images", "image", "imgs", "img", "jpegimages", "jpegs", "jpeg", "jpg", "pngs", "png"),
        *("photos", "photo", "pictures", "picture", "pics", "originals", "original"),
    }
)
_SPLITS = frozenset(
    {
        *("train", "training", "val", "valid", "validation", "test", "testing", "dev", "holdout", "data", "dataset"),
        *("imagenet", "ilsvrc", "ilsvrc2012", "cls-loc"),
    }
)
_SYNSET = re.compile(r"(n\d{8})(?:[-_. ].*)?", re.IGNORECASE)
_NUMBERED = re.compile(r"\d+[._\- ]+(?=[^\W\d])")
_MAX_CAPTION = 200


@dataclass
class Tree:
    """What was found below a folder.

    `images` and `tables` are sorted. `others` are the files of other kinds. `litter` and `unread` name folders that
    were not entered, relative to the root: those of thumbnails and bins, and those that can't be read. `dead_links`
    counts links that lead nowhere. `folders` has the names of the folders in each folder.
    """

    images: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    litter: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    dead_links: int = 0
    folders: dict[Path, list[str]] = field(default_factory=dict)

    def passed_over(self) -> str:
        """Return what was passed over, in one line; empty where nothing was."""
        parts = []
        suffixes = Counter(map(suffix_of, self.others))
        if suffixes:
            kinds = sorted(suffixes.items(), key=lambda kind: (-kind[1], kind[0]))[:8]
            more = f" and {len(suffixes) - len(kinds)} other kinds" if len(suffixes) > len(kinds) else ""
            parts.append(", ".join(f"{number} {suffix}" for suffix, number in kinds) + more)
        if self.litter:
            parts.append(f"{len(self.litter)} folders of thumbnails or deleted files ({_some(self.litter)})")
        if self.unread:
            parts.append(f"{len(self.unread)} folders that can't be read ({_some(self.unread)})")
        if self.dead_links:
            parts.append(f"{self.dead_links} links that lead nowhere")
        return "; ".join(parts)


@dataclass(frozen=True)
class Shown:
    """What a photograph shows: words, and the ImageNet-1k class where it is known.

    `said` is false where neither folder nor caption says it, so that the words are only the folder's name.
    """

    subject: str
    true_class: int | None = None
    said: bool = True


def read_tree(root: Path) -> Tree:
    """Return the image files and tables below `root`; links are followed, each folder is entered once.

    A folder that is there and linked as well is taken where it is. Links to a folder above `root` are not followed,
    because they would lead through the whole disk. Hidden files and folders are passed over.
    """
    tree = Tree()
    top = Path(os.path.realpath(root))
    above = {str(top), *map(str, top.parents)}
    entered: set[str] = set()
    folders, links = [root], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(folder)
        if real in entered or (real in above and folder != root):
            continue
        entered.add(real)
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            tree.unread.append(f"{_inside(folder, root)}: {error.strerror or type(error).__name__}")
            continue
        names = [entry.name for entry in entries if not entry.name.startswith(".") and _is(entry, "folder")]
        tree.folders[folder] = names
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.name in names:
                if is_litter(entry.name):
                    tree.litter.append(_inside(path, root))
                else:
                    (links if entry.is_symlink() else folders).append(path)
            elif _is(entry, "file"):
                _sort_in(tree, path)
            elif entry.is_symlink():
                tree.dead_links += 1
    tree.images.sort()
    tree.tables.sort()
    return tree


def shown_by_folders(folder: Path, root: Path, tree: Tree) -> Shown:
    """Return what the names of the folders from `folder` up to `root` say about the photographs in it.

    A WordNet ID (`n01440764`, also `n01440764-tench`) anywhere gives the class. Otherwise the nearest folder with a
    name that says something counts: not `images` or `train`, and not a number alone. Numbers in front of the names of
    sibling folders (`001.Albatross`, `002.Auklet`) are left out.
    """
    folders = list(_up(folder, root))
    for folder in folders:
        if known := shown_by_synset(folder.name):
            return known
    below = folders[:-1]
    names = [_words(folder.name, tree.folders.get(folder.parent, [])) for folder in below]
    for name in names:
        if says_something(name):
            return Shown(name)
    if all(name.lower() in _HOLDERS for name in names):
        name = _words(root.name, [])
        if says_something(name) or not below:
            return Shown(name or "photograph", said=says_something(name))
    others = [*names, _words(root.name, []), *names, "photograph"]
    return Shown(next(name for name in others if _is_word(name) or name == "photograph"), said=False)


def shown_by_caption(path: Path) -> Shown | None:
    """Return what a text file beside a photograph, of the same name, says in its first line; None without words."""
    try:
        with path.with_suffix(".txt").open(encoding="utf-8-sig") as file:
            line = file.readline(4 * _MAX_CAPTION).strip()
    except (OSError, ValueError):
        return None
    return Shown(line[:_MAX_CAPTION]) if any(map(str.isalpha, line)) else None


def shown_by_synset(name: str) -> Shown | None:
    """Return what a WordNet ID, alone or before a name, stands for; None for other names and unknown IDs."""
    found = _SYNSET.fullmatch(name.strip())
    synset = found[1].lower() if found else ""
    index = class_of_synset().get(synset)
    if index is not None:
        return Shown(class_names()[index], index)
    return Shown(name_of_synset()[synset]) if synset in name_of_synset() else None


def is_litter(name: str) -> bool:
    """Return whether a file or folder is hidden, or was left by a file server, an archiver or a viewer."""
    return name.startswith((".", "@")) or name.lower() in _LITTER


def suffix_of(path: Path) -> str:
    """Return the suffix of a file for a message about kinds of files."""
    return printable_name(path.suffix.lower()[:16]) or "without a suffix"


def says_something(name: str) -> bool:
    """Return whether a name can be what a photograph shows: it has a letter, and is no usual name of a level."""
    return any(map(str.isalpha, name)) and name.lower() not in _HOLDERS | _SPLITS


def _is_word(name: str) -> bool:
    return any(map(str.isalpha, name)) and name.lower() not in _HOLDERS


def _up(lowest: Path, root: Path) -> Iterator[Path]:
    for folder in (lowest, *lowest.parents):
        yield folder
        if folder == root:
            return


def _words(name: str, siblings: list[str]) -> str:
    numbers = [found[0] for found in map(_NUMBERED.match, siblings) if found]
    found = _NUMBERED.match(name)
    # "18_wheeler" among other names is a name; so is a folder alone, unless its number is written as one of a list.
    if found and ("." in found[0] or name.startswith("0") or len(set(numbers)) == len(siblings) > 1):
        name = name[found.end() :]
    return storable_text(name.replace("_", " ").strip())


def _sort_in(tree: Tree, path: Path) -> None:
    if path.name.lower() in TABLES:
        tree.tables.append(path)
    elif path.suffix.lower() in SUFFIXES:
        tree.images.append(path)
    else:
        tree.others.append(path)


def _is(entry: os.DirEntry[str], kind: str) -> bool:
    """Whether an entry, or what it links to, is a file or a folder; a link to itself is neither."""
    try:
        return entry.is_dir() if kind == "folder" else entry.is_file()
    except OSError:
        return False


def _inside(path: Path, root: Path) -> str:
    return printable_name(path.relative_to(root).as_posix())


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
