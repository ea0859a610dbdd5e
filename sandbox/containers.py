"""JPEG, PNG and WebP files without their metadata.

Cameras, editors and damaged disks write metadata that no decoder reads without an error, beside pixels that every
viewer shows. So the pixels are taken out first, with the two facts that change how they look: the orientation and the
colour profile. Both are read leniently: what can't be read is left out.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"
# Bytes that a compressed profile or text may unfold to. Profiles of printers have up to a few megabytes.
_MAX_UNFOLDED = 16 * 2**20

_EXIF = b"Exif\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_ICC = b"ICC_PROFILE\0"
_ORIENTATION = 0x0112
# A marker of a JPEG that is none of those without a length: stuffed zeros, TEM, restart.
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")


@dataclass(frozen=True)
class Pixelfile:
    """A file that holds pixels and no metadata.

    `orientation` is EXIF's, 1 to 8. `profile` is an unchecked ICC profile. `unfinished` is true for a JPEG without
    its end marker: whether pixels are missing is still to be found out (`finished_in_three_ways`).
    """

    data: bytes
    orientation: int = 1
    profile: bytes | None = None
    unfinished: bool = False


def without_metadata(data: bytes) -> Pixelfile | None:
    """Return the pixels' part of a JPEG, PNG or WebP; None for other formats and where the structure is broken."""
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(_PNG):
            return _png(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):
        pass
    return None


def finished_in_three_ways(data: bytes) -> Iterator[bytes]:
    """Yield a JPEG without end marker, ended in three ways; its pixels are whole where all three look the same.

    What follows the last coded block is ignored by decoders. So where a block is missing, or a single bit of one, what
    is decoded from an empty end, from an end that begins with a 0 and from one that begins with a 1 differs. Each
    end has all restart markers, so that a cut between two of them shows as well. Yields nothing where a scan is
    missing, or where the file ends in the zeros of a download that was never filled.
    """
    data = data.removesuffix(b"\xff")
    if data.endswith(bytes(16)) or not _has_all_scans(data):
        return
    noise = bytes((73 * number + 41) % 251 for number in range(512))
    yield data + _JPEG_END
    # Decoders give up at a marker that is one or two ahead of the one they expect, hence two orders.
    for first, order in ((b"\x55", (0, 1, 2, 3, 4, 5, 6, 7)), (b"\xd5", (4, 5, 6, 7, 0, 1, 2, 3))):
        end = b"".join(first + noise + b"\xff" + bytes([0xD0 + number]) for number in order + order)
        yield data + end + _JPEG_END


def scans(data: bytes, *, most: int) -> int:
    """Return how many scans a JPEG has up to its end marker; counting ends at `most`.

    Segments are passed over by their lengths, as decoders do. In the coded data of a scan, each 0xFF is followed by a
    0 or is a restart marker.
    """
    found, position = 0, 2
    while found < most and (marker := _MARKER.search(data, position)):
        code, position = marker[0][-1], marker.end()
        if code == 0xD9:
            break
        if code != 0xD8:
            position += max(2, int.from_bytes(data[position : position + 2]))
            found += code == 0xDA
    return found


def _jpeg(data: bytes) -> Pixelfile | None:
    kept, exif, xmp = bytearray(data[:2]), b"", b""
    profile: dict[int, bytes] = {}
    parts = 0
    for code, start, end in _segments(data, 2):
        body = data[start + 4 : end]
        if code in (0xD8, 0xD9):
            return None  # a second picture begins, so a wrong length led into a thumbnail
        if code == 0xDA:
            scans = data[start:]
            orientation = _orientation(exif[6:]) or _orientation_in_xmp(xmp) or 1
            whole = b"".join(profile[number] for number in sorted(profile)) if len(profile) == parts else b""
            return Pixelfile(bytes(kept) + scans, orientation, whole or None, unfinished=scans.find(_JPEG_END) < 0)
        if code == 0xE1 and body.startswith(_EXIF):
            exif = exif or body
        elif code == 0xE1 and body.startswith(_XMP):
            xmp = xmp or body
        elif code == 0xE2 and body.startswith(_ICC) and len(body) > 14:
            profile[body[12]], parts = body[14:], body[13]
        # JFIF and Adobe segments say how colours are coded. The others, and comments, don't change pixels.
        if code in (0xE0, 0xEE) or not (0xE0 <= code <= 0xEF or code == 0xFE):
            kept += data[start:end]
    return None


def _segments(data: bytes, position: int) -> Iterator[tuple[int, int, int]]:
    """Yield marker code, start and end of each segment; stray bytes between segments are passed over."""
    while (start := data.find(b"\xff", position)) >= 0:
        while data[start + 1] == 0xFF:
            start += 1
        code = data[start + 1]
        position = start + 2
        if code in (0x00, 0x01) or 0xD0 <= code <= 0xD7:
            continue
        if code not in (0xD8, 0xD9):
            (length,) = struct.unpack_from(">H", data, position)
            position += max(2, length)
        yield code, start, position


def _has_all_scans(data: bytes) -> bool:
    """Return whether the scans of a JPEG give every coefficient of every component to its last bit."""
    components: list[int] = []
    missing: dict[int, set[int]] = {}
    try:
        for code, start, _ in _segments(data, 2):
            if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
                components = [data[start + 10 + 3 * number] for number in range(data[start + 9])]
                missing = {component: set(range(64)) for component in components}
            elif code == 0xDA:
                number = data[start + 4]
                first, last, bits = data[start + 5 + 2 * number : start + 8 + 2 * number]
                if bits & 0x0F == 0:
                    for index in range(number):
                        missing[data[start + 5 + 2 * index]] -= set(range(first, last + 1))
    except (struct.error, IndexError, KeyError, ValueError):
        return False
    return bool(components) and not any(missing.values())


def _png(data: bytes) -> Pixelfile | None:
    kept, position = bytearray(_PNG), len(_PNG)
    exif, xmp, orientation, profile, found_pixels = b"", b"", None, None, False
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if not kind.isalpha() or end > len(data):
            if kind in (b"IHDR", b"PLTE", b"IDAT") or not found_pixels:
                return None  # pixels are missing: the decoder says so
            break
        body = data[position + 8 : end - 4]
        right = zlib.crc32(data[position + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])
        found_pixels = found_pixels or kind == b"IDAT"
        if kind[:1].isupper() or (kind == b"tRNS" and right and _fits(body, colour_type=data[25])):
            kept += data[position:end]
        elif kind == b"iCCP" and right:
            profile = _unfolded(body.partition(b"\0")[2][1:])
        elif kind == b"eXIf" and right:
            exif = body
        elif kind in (b"zTXt", b"tEXt", b"iTXt") and right:
            keyword, _, text = body.partition(b"\0")
            if keyword == b"Raw profile type exif":
                exif = exif or _raw_profile(text if kind == b"tEXt" else _unfolded(text[1:]))
            elif keyword == b"XML:com.adobe.xmp":
                xmp = text
        position = end
        if kind == b"IEND":
            break
    if not kept.endswith(_PNG_END):
        kept += _PNG_END
    orientation = _orientation(exif) or _orientation_in_xmp(xmp) or 1
    return Pixelfile(bytes(kept), orientation, profile)


def _fits(transparency: bytes, *, colour_type: int) -> bool:
    return len(transparency) == {0: 2, 2: 6}.get(colour_type) or (colour_type == 3 and 1 <= len(transparency) <= 256)


def _unfolded(data: bytes) -> bytes | None:
    stream = zlib.decompressobj()
    try:
        unfolded = stream.decompress(data, _MAX_UNFOLDED)
    except zlib.error:
        return None
    return unfolded if stream.eof else None


def _raw_profile(text: bytes | None) -> bytes:
    """EXIF as ImageMagick writes it into a PNG's text: a line break, `exif`, the length, and hexadecimal lines."""
    try:
        return bytes.fromhex("".join((text or b"").decode("ascii").split("\n")[3:]))
    except ValueError:
        return b""


def _webp(data: bytes) -> Pixelfile | None:
    kept, position = bytearray(), 12
    exif, xmp, profile, found_pixels = b"", b"", None, False
    ends = 8 + int.from_bytes(data[4:8], "little")
    while position + 8 <= min(ends, len(data)):
        kind, length = struct.unpack_from("<4sI", data, position)
        end = position + 8 + length
        body = data[position + 8 : end]
        pixels = kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
        if end > len(data):
            if pixels or not found_pixels:
                return None  # pixels are missing: the decoder says so
            break
        if kind == b"VP8X":
            flags = body[0] & ~0b101100  # profile, EXIF and XMP are no longer there
            kept += data[position : position + 8] + bytes([flags]) + body[1:] + b"\0" * (length % 2)
        elif pixels:
            found_pixels = True
            kept += data[position:end] + b"\0" * (length % 2)
        elif kind == b"EXIF":
            exif = body
        elif kind == b"XMP ":
            xmp = body
        elif kind == b"ICCP":
            profile = body
        position = end + length % 2
    if not found_pixels:
        return None
    head = b"RIFF" + struct.pack("<I", 4 + len(kept)) + b"WEBP"
    return Pixelfile(head + bytes(kept), _orientation(exif) or _orientation_in_xmp(xmp) or 1, profile)


def _orientation(exif: bytes) -> int | None:
    """Return the orientation that the first directory of an EXIF block states, 1 to 8; None where it states none."""
    while exif.startswith(_EXIF):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return None
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, directory)
        for position in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, position)
            if tag == _ORIENTATION:
                # A byte, a short or a long; other types are not this tag's.
                form = {1: "B", 3: "H", 4: "I"}.get(kind)
                value = struct.unpack_from(f"{order}{form}", exif, position + 8)[0] if form else 0
                return value if 1 <= value <= 8 else None
    except struct.error:
        pass
    return None


def _orientation_in_xmp(xmp: bytes) -> int | None:
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
    return int(found[1]) if found else None
