"""The page of a certificate: one self-contained HTML file, the same bytes for the same certificate everywhere.

It is made of the statement, the rows and the images of the evidence alone, so that a verifier renders it again. Each
figure stands in an element with `data-figure`, the path of its value in the statement.
"""

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from perturb.certificates.articles import ARTICLES
from perturb.certificates.folder import broken_name, clean_name
from perturb.certificates.narrative import claim_text, interval, narrative, percent
from perturb.certificates.tables import Row
from perturb.models.hypernyms import SEVERE_HEIGHT
from perturb.sandbox.stored import decode_stored
from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import AuditError
from perturb.schemas.image import Pixels
from perturb.schemas.png import PngRefused, stored_size
from perturb.sinks.report.contact_sheet import amplified_difference

PAIRS = 6
_VERDICTS = {"refuted": "refuted", "not_refuted": "not refuted", "undecided": "undecided"}


def render_page(
    statement: Mapping[str, Any],
    rows: Sequence[Row],
    members: Mapping[str, bytes],
    *,
    beside: Mapping[str, Any] | None = None,
) -> str:
    """Return the page. `members` are those of evidence.tar; `beside` is a comparison with another network, to be shown.

    Raises AuditError where an image of the evidence can't be read.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"percent": percent, "interval": interval, "claim": claim_text}
    template = files("perturb.certificates").joinpath("certificate.html").read_text(encoding="utf-8")
    predicate = statement["predicate"]
    block = predicate["robustness"]
    return environment.from_string(template).render(
        statement=statement,
        predicate=predicate,
        block=block,
        plan=block["plan"],
        sentences=narrative(statement),
        verdicts=_VERDICTS,
        pairs=_pairs(worst_rows(rows), block["observed"]["classNames"], members),
        curve=_curve(block),
        severe=SEVERE_HEIGHT,
        articles=ARTICLES,
        digest=_digest(statement),
        beside=beside,
    )


def worst_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the pairs that are shown: the most severe mistakes, then the smallest changes."""
    first: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row["level"]):
        if row["status"] == "broken":
            first.setdefault(row["identity"], row)
    chosen = sorted(
        first.values(), key=lambda row: (-(row["hypernym_height"] or 0), row["level"], row["l0"], row["identity"])
    )
    return chosen[:PAIRS]


def _pairs(rows: Sequence[Row], names: Mapping[str, str], members: Mapping[str, bytes]) -> list[dict[str, Any]]:
    shown = []
    for row in rows:
        files_ = [members.get(name(row["identity"])) for name in (clean_name, broken_name)]
        clean, broken = (_decoded(file, row["identity"]) for file in files_)
        shown.append(
            {
                "row": row,
                "from": names[str(row["label"])],
                "to": names[str(row["adversarial_label"])],
                "clean": _uri(files_[0] or b""),
                "broken": _uri(files_[1] or b""),
                "difference": _uri(_stored_png(amplified_difference(clean, broken)[::2, ::2])),
            }
        )
    return shown


def _decoded(file: bytes | None, identity: str) -> Pixels:
    if file is None:
        raise AuditError(f"evidence.tar lacks an image of {identity[:12]}…")
    try:
        (pixels,) = decode_stored([(file, *stored_size(file))])
    except PngRefused as refused:
        pixels = refused
    if isinstance(pixels, PngRefused):
        raise AuditError(f"evidence.tar: an image of {identity[:12]}… is refused: {pixels.detail}")
    return pixels


def _stored_png(pixels: Pixels) -> bytes:
    """An RGB PNG without compression: compressors of other versions give other bytes, which would change the page."""
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    blocks = [lines[start : start + 65535] for start in range(0, len(lines), 65535)]
    stored = b"".join(
        struct.pack("<BHH", number == len(blocks) - 1, len(block), 65535 - len(block)) + block
        for number, block in enumerate(blocks)
    )
    packed = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(lines))
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _curve(block: Mapping[str, Any]) -> dict[str, Any]:
    """Points of the curve in a drawing of 300 x 120: shares over levels, the unchanged images first."""
    rates = [(0, block["cleanAccuracy"]), *((level["level"], level["robust"]) for level in block["levels"])]
    step = 280 // max(1, len(rates) - 1)
    points = [
        {"x": 10 + place * step, "y": 110 - round(100 * float(rate["share"] or 0)), "level": level}
        for place, (level, rate) in enumerate(rates)
    ]
    bands = [
        {
            "x": point["x"],
            "top": 110 - round(100 * float(rate["limits"]["upper"])),
            "bottom": 110 - round(100 * float(rate["limits"]["lower"])),
        }
        for point, (_, rate) in zip(points, rates, strict=True)
        if rate["limits"]
    ]
    return {"points": points, "bands": bands, "line": " ".join(f"{point['x']},{point['y']}" for point in points)}


def _digest(statement: Mapping[str, Any]) -> str:
    import hashlib

    return hashlib.sha256(canonical_json(statement)).hexdigest()
