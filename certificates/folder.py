"""The folder of one certificate: its files, and the work of a run that has not ended.

plan.json               the signed plan
pool.parquet            every image of the pool: identity, label, origin, cluster, licence
evidence.tar            each measured image, and for each broken one the file that breaks it at the smallest level
results.parquet         a row for each image and level
report.html             the page
certificate.dsse.json   the certificate; it is written last, and without it the others are no certificate
local.json, work/       where subject and pool are on this machine, and results of single images; never published
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturb.certificates.measure import ImageResult
from perturb.schemas.errors import AuditError, SettingsError
from perturb.sinks.formats.tar import BLOCK, END, TarWriter, header
from perturb.sinks.report.replace_file import replace_file
from perturb.sinks.stores.base import Pieces

CERTIFICATE = "certificate.dsse.json"
EVIDENCE = ("plan.json", "pool.parquet", "evidence.tar", "results.parquet")
PAGE = "report.html"
# A file of a stranger is read up to this size only, in bytes.
_MAX_BYTES = 2**33


@dataclass(frozen=True)
class LocalPlaces:
    """Where subject, pool and corpus are on this machine; no part of the certificate."""

    subject: str
    pool: str
    classes: str | None = None
    crowd: str | None = None
    beacon: str | None = None


class CertificateFolder:
    """Reads and writes the files of one certificate."""

    def __init__(self, path: Path):
        self.path = path

    def read(self, name: str) -> bytes:
        """Return the bytes of a file. Raises AuditError where it is not there or can't be read."""
        file = self.path / name
        try:
            if file.stat().st_size > _MAX_BYTES:
                raise AuditError(f"{file} is larger than {_MAX_BYTES} bytes")
            return file.read_bytes()
        except OSError as error:
            raise AuditError(f"{file} can't be read ({error.strerror})") from error

    def has(self, name: str) -> bool:
        """Return whether a file is there."""
        return (self.path / name).is_file()

    def write(self, name: str, data: bytes) -> None:
        """Write a file in one step."""
        replace_file(self.path / name, data)

    def keep_places(self, places: LocalPlaces) -> None:
        """Remember where subject and pool are."""
        self.write("local.json", json.dumps(places.__dict__, indent=1).encode())

    def places(self) -> LocalPlaces:
        """Return where subject and pool are. Raises SettingsError where the plan was made elsewhere."""
        try:
            return LocalPlaces(**json.loads((self.path / "local.json").read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise SettingsError(
                f"{self.path} has no local.json that can be read; name the plan's --subject and --pool"
            ) from error

    def keep_work(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep a part of the run's work; it is whole or not there."""
        self.write(f"work/{name}.json", json.dumps(value).encode())

    def work(self, name: str) -> dict[str, Any] | None:
        """Return a kept part; None where it is not there."""
        try:
            value: dict[str, Any] = json.loads((self.path / "work" / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return value

    def keep_result(self, identity: str, result: ImageResult) -> None:
        """Keep the result of one image."""
        witness = None if result.witness is None else base64.b64encode(result.witness).decode()
        self.keep_work(identity, {"rows": result.rows, "witness": witness})

    def result(self, identity: str) -> ImageResult | None:
        """Return the kept result of one image; None where there is none."""
        kept = self.work(identity)
        if kept is None:
            return None
        witness = None if kept["witness"] is None else base64.b64decode(kept["witness"])
        return ImageResult(kept["rows"], witness)


def clean_name(identity: str) -> str:
    """Return the name of an unchanged image in evidence.tar."""
    return f"{identity}.clean.png"


def broken_name(identity: str) -> str:
    """Return the name of the file that breaks an image, in evidence.tar."""
    return f"{identity}.perturbed.png"


def pack(members: Mapping[str, bytes]) -> bytes:
    """Return a tar with these members in their order; the same members give the same bytes."""
    writer = TarWriter(Pieces())
    for name, data in members.items():
        writer.add(name, data)
    return writer.finish().join()


def unpack(data: bytes, where: str) -> dict[str, bytes]:
    """Return the members of a tar that `pack` wrote. Raises AuditError for any other bytes, such as a longer one."""
    found: dict[str, bytes] = {}
    place = 0
    while data[place : place + len(END)] != END:
        head = data[place : place + BLOCK]
        try:
            name = head[:100].rstrip(b"\0").decode("ascii")
            length = int(head[124:135], 8)
            if header(name, length) != head or name in found or place + BLOCK + length > len(data):
                raise ValueError
        except ValueError as error:
            raise AuditError(f"{where} is not a tar of this program (at byte {place})") from error
        found[name] = data[place + BLOCK : place + BLOCK + length]
        padding = -length % BLOCK
        if any(data[place + BLOCK + length : place + BLOCK + length + padding]):
            raise AuditError(f"{where} has bytes between its members (at byte {place})")
        place += BLOCK + length + padding
    if place + len(END) != len(data):
        raise AuditError(f"{where} has bytes after its end")
    return found
