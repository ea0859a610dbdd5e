"""Compares rows with the shards that they point into, byte by byte."""

import hashlib
from collections.abc import Mapping, Sequence

from perturb.schemas.record import Row
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.manifest import FileEntry, Kind
from perturb.sinks.formats.tar import BLOCK, MOST_BYTES, Member, check_layout, header


def member_name(row: Row, image: Kind) -> str:
    """Return the name of the tar member that holds an image of a row."""
    return keys.original_name(row["original_sha256"]) if image == "original" else keys.perturbed_name(row["record_id"])


def pointed_members(rows: Sequence[Row], shard: str, image: Kind) -> dict[str, Member]:
    """Return the members of one shard that rows point to, by name. Raises ValueError for an impossible pointer."""
    found: dict[str, Member] = {}
    for row in rows:
        if row[f"{image}_shard"] != shard:
            continue
        name = member_name(row, image)
        offset, length = row[f"{image}_offset"], row[f"{image}_length"]
        if not (isinstance(offset, int) and isinstance(length, int) and offset >= BLOCK and 0 < length <= MOST_BYTES):
            raise ValueError(
                f"record {row['record_id']} points to {length} bytes at byte {offset}, which cannot be an image"
            )
        member = Member(name, offset, length)
        if found.setdefault(name, member) != member:
            raise ValueError(f"record {row['record_id']} and another point to different places for {name}")
    return found


def check_pointers(rows: Sequence[Row], shard: str, entry: FileEntry, tar: bytes | memoryview) -> list[str]:
    """Return the faults between rows and one shard in memory: members that are missing, misplaced or misnamed."""
    try:
        members = pointed_members(rows, shard, entry.kind)
    except ValueError as error:
        return [str(error)]
    faults = check_members(members, entry)
    for member in members.values():
        if bytes(tar[member.offset - BLOCK : member.offset]) != header(member.name, member.length):
            faults.append(f"{shard} does not hold {member.name} at byte {member.offset}")
    if entry.sha256 is None and not faults:
        faults += _check_contents(rows, shard, memoryview(tar))
    return faults


def _check_contents(rows: Sequence[Row], shard: str, tar: memoryview) -> list[str]:
    """Return the faults of a tar without a digest: each image must have its own, and only zeros may lie between."""
    faults, end = [], 0
    for row in sorted(
        (row for row in rows if row["perturbed_shard"] == shard), key=lambda row: row["perturbed_offset"]
    ):
        start = row["perturbed_offset"]
        if any(tar[end : start - BLOCK]):
            faults.append(f"{shard} has bytes before the image of {row['record_id']} that do not belong to an image")
        end = start + row["perturbed_length"]
        if hashlib.sha256(tar[start:end]).hexdigest() != row["body_sha256"]:
            faults.append(f"{shard}: the image of {row['record_id']} differs from what the miner sent")
    if any(tar[end:]):
        faults.append(f"{shard} has bytes after its last image")
    return faults


def check_members(members: Mapping[str, Member], entry: FileEntry) -> list[str]:
    """Return the faults between the members that rows point to and the stated entry of their shard."""
    faults = check_layout(list(members.values()), entry.size)
    if len(members) != entry.rows:
        faults.insert(0, f"{entry.key} states {entry.rows} images, but rows point to {len(members)}")
    return faults
