"""A dataset of the Hugging Face form in a local folder or file: how it is loaded, and which of its files are used."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from perturb.schemas.errors import SourceError
from perturb.schemas.settings import HubSettings
from perturb.sources.tree import Shown, Tree, is_litter, read_tree, shown_by_folders, suffix_of

if TYPE_CHECKING:
    import datasets

# Local files that are datasets, and the readers of `datasets` for them.
_READERS = {
    **{".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json"},
    **{".tar": "webdataset", ".zip": "imagefolder"},
}
# Files beside a dataset that hold no rows, by their suffix or their name.
_NOT_ROWS = {".md", ".py", ".txt", "dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"}


@dataclass
class LocalDataset:
    """A dataset at `path`, a folder or a file, which is absolute and leads through no links.

    `tree` is what a folder holds, without which the subjects of its images are not known.
    """

    path: Path
    tree: Tree = field(default_factory=Tree)

    def __post_init__(self) -> None:
        if self.path.is_dir():
            self.tree = read_tree(self.path)
        # `datasets` lists files by where links lead. A file that is there and linked as well is taken where it is.
        files = (*self.tree.images, *self.tree.tables, *self.tree.others)
        self._files = {os.path.realpath(file): file for file in sorted(files, key=lambda file: not file.is_symlink())}

    @property
    def folder(self) -> Path:
        """The folder that holds the dataset's files."""
        return self.path if self.path.is_dir() else self.path.parent

    def load(self, settings: HubSettings) -> tuple["datasets.IterableDataset", str]:
        """Return the rows of the split, and in one line which files of the folder it does not use, empty for none.

        Raises SourceError for a file of another kind, and what `datasets` raises.
        """
        import datasets

        if (self.path / "state.json").is_file():  # what `save_to_disk` writes
            saved = datasets.load_from_disk(str(self.path))
            if settings.split not in ("train", str(saved.split)):
                raise SourceError(
                    f"{self.path.name} is one saved split, not {settings.split!r}; set hub.split to train"
                )
            return saved.to_iterable_dataset(), ""
        if self.path.is_file():
            reader = _READERS.get(self.path.suffix.lower())
            if reader is None:
                raise SourceError(f"{self.path.name} is not a dataset; accepted: a folder, or {', '.join(_READERS)}")
            builder = datasets.load_dataset_builder(reader, settings.config, data_files=str(self.path))
        else:
            builder = datasets.load_dataset_builder(str(self.path), settings.config)
        if hasattr(builder.config, "drop_labels") and not settings.label_column and not settings.subject_column:
            # Labels of folders are missing where folders differ in depth or a split has one class, and wrong in
            # archives. `shown` reads the same names.
            builder.config.drop_labels = True
        rows = builder.as_streaming_dataset(split=settings.split)
        return rows, self._unused(builder.config.data_files or {}, settings.split)

    def find(self, path: str) -> Path | None:
        """Return where a file of the dataset is, a member of an archive as if it lay beside the archive.

        None for a path that leads elsewhere: paths stand in rows, and rows are untrusted.
        """
        *members, name = path.split("::")
        if not name or "\0" in path or ".." in Path(name).parts:
            return None
        real = os.path.realpath(name)
        file = self._files.get(real, Path(real))
        if not file.is_relative_to(self.path):
            return None
        if not members:
            return file
        inside = re.fullmatch(r"(?:zip|tar)://(.*)", members[0])
        if len(members) > 1 or inside is None or ".." in inside[1].split("/"):
            return None
        return file.parent / inside[1].lstrip("/")

    def shown(self, file: Path) -> Shown:
        """Return what the folders above a file say that it shows."""
        return shown_by_folders(file.parent, self.folder, self.tree)

    def is_litter(self, file: Path) -> bool:
        """Return whether a file is hidden or a thumbnail, which `datasets` lists like any other."""
        return any(is_litter(part) for part in file.relative_to(self.folder).parts)

    def _unused(self, data_files: Mapping[object, Iterable[object]], split: str) -> str:
        splits = {os.path.realpath(str(file)): str(name) for name, files in data_files.items() for file in files}
        chosen = set(re.findall(r"\w+", split))
        unused: Counter[str] = Counter()
        for real, file in self._files.items() if splits else ():
            name = splits.get(real)
            if name is None and not {file.suffix.lower(), file.name} & _NOT_ROWS:
                unused[suffix_of(file)] += 1
            elif name is not None and not chosen & {name, "all"}:
                unused[f"of split {name!r}"] += 1
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(unused.items()))
        return f"split {split!r} does not use all files; skipped: {kinds}" if kinds else ""
