"""Whether rows and the shards that they point into agree, to the byte."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from perturb.sinks.corpus import keys
from perturb.sinks.corpus.manifest import FileEntry
from perturb.sinks.formats.tar import BLOCK, Member, check_layout, header


def pointed_members(rows: Sequence[Mapping[str, Any]], shard: str, image: str) -> dict[str, Member]:
    """The members of one shard that rows point to, by name. Raises ValueError for an impossible pointer."""
    found: dict[str, Member] = {}
    for row in rows:
        if row[f"{image}_shard"] != shard:
            continue
        name = (
            keys.original_name(row["original_sha256"]) if image == "original" else keys.perturbed_name(row["record_id"])
        )
        offset, length = row[f"{image}_offset"], row[f"{image}_length"]
        if not (isinstance(offset, int) and isinstance(length, int) and offset >= BLOCK and length > 0):
            raise ValueError(f"record {row['record_id']} points to byte {offset} and {length} bytes, which is no image")
        member = Member(name, offset, length)
        if found.setdefault(name, member) != member:
            raise ValueError(f"record {row['record_id']} and another point to different places for {name}")
    return found


def check_pointers(
    rows: Sequence[Mapping[str, Any]], shard: str, entry: FileEntry, tar: bytes | memoryview
) -> list[str]:
    """Faults between rows and one shard held in memory: members missing, misplaced, or not the ones named."""
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


def _check_contents(rows: Sequence[Mapping[str, Any]], shard: str, tar: memoryview) -> list[str]:
    """Instead of the digest of a whole tar: its images by their digests, and nothing but zeros between them."""
    faults, end = [], 0
    for row in sorted(
        (row for row in rows if row["perturbed_shard"] == shard), key=lambda row: row["perturbed_offset"]
    ):
        start = row["perturbed_offset"]
        if any(tar[end : start - BLOCK]):
            faults.append(f"{shard} has bytes before {row['record_id']} that belong to no image")
        end = start + row["perturbed_length"]
        if hashlib.sha256(tar[start:end]).hexdigest() != row["body_sha256"]:
            faults.append(f"{shard}: the image of {row['record_id']} is not the one that the miner sent")
    if any(tar[end:]):
        faults.append(f"{shard} has bytes behind its last image")
    return faults


def check_members(members: Mapping[str, Member], entry: FileEntry) -> list[str]:
    """Faults between the members that rows point to and what is stated of their shard."""
    faults = check_layout(list(members.values()), entry.size)
    if len(members) != entry.rows:
        faults.insert(0, f"{entry.key} holds {entry.rows} images, rows point to {len(members)}")
    return faults
