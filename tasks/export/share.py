"""Presigned links to the files of an export, with their sizes and sha256, for a subscriber without credentials."""

import glob
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote, urlsplit

from perturb.schemas.errors import SettingsError, TierError
from perturb.schemas.tier import SPLITS
from perturb.schemas.trust import ANYONE, Trust
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.dataset.contents import read_contents
from perturb.sinks.dataset.day_index import ExportFile
from perturb.sinks.dataset.keys import tier_folder
from perturb.sinks.dataset.writers import FORMATS, Format
from perturb.sinks.stores.base import Store
from perturb.tasks.export.own_days import check_exported
from perturb.tasks.export.release import read_release

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
# AWS Signature Version 4 allows no longer time.
LONGEST = timedelta(days=7)


@dataclass(frozen=True)
class SharedFile:
    """One file: its link, its path below the download folder, and the size and sha256 to check.

    `root` is the format (`parquet`, `wds` or `by_photo`), `rows` the number of rows (records, or photographs in
    `by_photo`), `size` in bytes.
    """

    url: str
    path: str
    root: str
    split: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Share:
    """Links to every data file of an export, or of one of its releases, valid until `expires_at`."""

    tier: str
    version: str
    release: str | None
    expires_at: datetime
    files: tuple[SharedFile, ...]

    def to_json(self) -> bytes:
        """Return the list as JSON; `data_files[root]` is what `datasets.load_dataset(..., data_files=)` takes.

        `datasets` does not decode file: URLs and reads patterns, so that files of a directory are paths there.
        """
        body = asdict(self) | {
            "expires_at": self.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "data_files": {
                format: {split: urls for split in SPLITS if (urls := self._urls(format, split))} for format in FORMATS
            },
        }
        return json.dumps(body, indent=1).encode() + b"\n"

    def urls(self) -> str:
        """Return one link a line."""
        return "".join(f"{file.url}\n" for file in self.files)

    def downloads(self) -> str:
        """Return input for `aria2c -i`: each link with its path and the sha256 that aria2c checks."""
        return "".join(f"{file.url}\n out={file.path}\n checksum=sha-256={file.sha256}\n" for file in self.files)

    def curl(self) -> str:
        """Return input for `curl --create-dirs -K`: each link with its path, as names alone are not unique."""
        return "".join(f'url = "{file.url}"\noutput = "{file.path}"\n' for file in self.files)

    def checksums(self) -> str:
        """Return input for `sha256sum -c` in the download folder."""
        return "".join(f"{file.sha256}  {file.path}\n" for file in self.files)

    def _urls(self, format: Format, split: str) -> list[str]:
        urls = [file.url for file in self.files if (file.root, file.split) == (format, split)]
        return [glob.escape(unquote(urlsplit(url).path)) if url.startswith("file:") else url for url in urls]


def share(
    store: Store,
    tier: str,
    *,
    release: str | None = None,
    expires: timedelta = LONGEST,
    formats: tuple[Format, ...] = FORMATS,
    now: datetime | None = None,
    trust: Trust = ANYONE,
) -> Share:
    """Sign links to the data files of a tier's export as it is now, or as a release froze it.

    Links are signed with the credentials of the store and become invalid with them, if those expire sooner.
    Each day of the export must come from a sealed day that a validator of `trust` signed, also those that a release
    leaves out.

    Raises TierError when the tier has no export or no such release, SettingsError for a time of 0 or more than 7 days,
    CorpusError for a day that is not of such a validator.
    """
    if not timedelta(0) < expires <= LONGEST:
        raise SettingsError(f"links cannot be valid for {expires}; choose more than 0 and at most 7d")
    version, files = _files(store, tier, release)
    check_exported(Corpus(store), read_contents(store, tier), trust)
    until = (now or datetime.now(UTC)) + expires
    return Share(
        tier=tier,
        version=version,
        release=release,
        expires_at=until,
        files=tuple(
            SharedFile(
                url=store.presign(tier_folder(tier) + file.key, expires_s=int(expires.total_seconds())),
                path=f"{tier}/{file.key}",
                root=file.root,
                split=file.split,
                rows=file.rows,
                size=file.size,
                sha256=file.sha256,
            )
            for file in files
            if file.root in formats
        ),
    )


def parse_duration(text: str) -> timedelta:
    """Parse a duration such as 30m, 12h or 7d. Raises SettingsError for other text."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", text)
    if match is None:
        raise SettingsError(f"--expires {text!r} is not a duration; write a number and m, h, d or w: 12h or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _files(store: Store, tier: str, release: str | None) -> tuple[str, Sequence[ExportFile]]:
    if release is not None:
        frozen = read_release(store, tier, release)
        return frozen.version, frozen.files
    contents = read_contents(store, tier)
    if not contents.days:
        raise TierError(f"tier {tier} has no export yet; run perturb export --tier {tier} first")
    return contents.version, contents.files
