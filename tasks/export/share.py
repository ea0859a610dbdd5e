"""Handing an export to a subscriber: a list of links that work for a while, with sizes and digests."""

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from perturb.schemas.errors import SettingsError, TierError
from perturb.sinks.dataset.card import SPLITS
from perturb.sinks.dataset.day_index import ExportFile
from perturb.sinks.stores.base import Store
from perturb.tasks.export.operator_state import tier_folder
from perturb.tasks.export.publish_card import read_digests, read_release
from perturb.tasks.export.write_day import ROOTS

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
# Signature version 4 signs for no longer.
LONGEST = timedelta(days=7)


@dataclass(frozen=True)
class SharedFile:
    """One file: where to get it, where it belongs below the download folder, and what it must be."""

    url: str
    path: str
    root: str
    split: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Share:
    """Links to every data file of an export (or of one release of it), good until `expires_at`."""

    tier: str
    version: str
    release: str | None
    expires_at: datetime
    files: tuple[SharedFile, ...]

    def to_json(self) -> bytes:
        """Everything; `data_files[root]` is what `datasets.load_dataset(..., data_files=)` takes."""
        body = asdict(self) | {
            "expires_at": self.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "data_files": {
                root: {split: urls for split in SPLITS if (urls := self._urls(root, split))} for root in ROOTS
            },
        }
        return json.dumps(body, indent=1).encode() + b"\n"

    def urls(self) -> str:
        """One link a line."""
        return "".join(f"{file.url}\n" for file in self.files)

    def downloads(self) -> str:
        """Input for `aria2c -i`: each link with its place and its digest, checked after the download."""
        return "".join(f"{file.url}\n out={file.path}\n checksum=sha-256={file.sha256}\n" for file in self.files)

    def curl(self) -> str:
        """Input for `curl --create-dirs -K`: each link with its place; curl's own name for it is not unique."""
        return "".join(f'url = "{file.url}"\noutput = "{file.path}"\n' for file in self.files)

    def checksums(self) -> str:
        """Input for `sha256sum -c` in the download folder."""
        return "".join(f"{file.sha256}  {file.path}\n" for file in self.files)

    def _urls(self, root: str, split: str) -> list[str]:
        return [file.url for file in self.files if (file.root, file.split) == (root, split)]


def share(
    store: Store,
    tier: str,
    *,
    release: str | None = None,
    expires: timedelta = LONGEST,
    roots: tuple[str, ...] = ROOTS,
    now: datetime | None = None,
) -> Share:
    """Sign links to the data files of a tier's export as it is now, or as a release froze it.

    Links are signed with the credentials of the store and end with those, if they end sooner.
    Raises TierError where nothing is exported or there is no such release, SettingsError for a longer time than
    links can be signed for.
    """
    if not timedelta(0) < expires <= LONGEST:
        raise SettingsError(f"links cannot be signed for {expires}; choose more than 0 and at most 7d")
    version, files = _files(store, tier, release)
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
            if file.root in roots
        ),
    )


def parse_duration(text: str) -> timedelta:
    """A time such as 30m, 12h, 7d. Raises SettingsError that says so."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", text)
    if match is None:
        raise SettingsError(f"--expires {text!r} is no duration; write a number and m, h, d or w, such as 12h or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _files(store: Store, tier: str, release: str | None) -> tuple[str, list[ExportFile]]:
    if release is not None:
        frozen = read_release(store, tier, release)
        listed = frozen["files"]
        assert isinstance(listed, list)
        return str(frozen["version"]), [ExportFile(**file) for file in listed]
    digests = read_digests(store, tier)
    if not digests:
        raise TierError(f"tier {tier} has no export yet; run perturb export --tier {tier} first")
    return f"1.{len(digests)}.0", [file for digest in digests for file in digest.files]
