"""Which objects of a store are ours. Listings pass over all others.

File managers, network disks, synchronisers and people leave objects in a corpus: `.DS_Store`, `Thumbs.db`, `@eaDir/`,
`x (conflicted copy).json`, `x.sync-conflict-20260131-120000-ABCDEFG.json`. They are recognised by not being named as
the objects that this project writes, so that no list of such names is needed.
"""

import re

SEGMENT = re.compile(r"[A-Za-z0-9._=+-]+")
# The names with a leading dot that we write. Others are hidden files of other programs.
_DOTTED = {".meta", ".perturb", ".probe"}
_DAY = r"date=\d{4}-\d{2}-\d{2}"
# What lies below the folders of a corpus, as `perturb.sinks.corpus.keys` and `perturb.sinks.dataset.keys` name it.
_BELOW = {
    "rounds": rf"{_DAY}/[A-Za-z0-9-]+/(original\.tar|perturbed\.tar|metadata\.parquet)",
    "sealed": (
        rf"log/\d{{8}}\.json|{_DAY}/(manifest\.json|"
        r"[0-9a-f]+/(metadata-\d+\.parquet|(original|perturbed)-\d+\.tar))"
    ),
    "pending": r"[A-Za-z0-9-]+/\d+\.arrow",
    "operator": r"pseudonym\.key|tiers/[^/.]+\.json",
    "exports": (
        r"[^/]+/(\.perturb/\d{4}-\d{2}-\d{2}\.json|releases/(?![^/]*\.sync-conflict-)[^/]+\.json|(parquet|wds)/("
        r"README\.md|croissant\.json|\.meta/[0-9.]+/[a-z]+\.png|data/[a-z]+/\d{4}-\d{2}-\d{2}-\d+\.(parquet|tar)))"
    ),
}
FOLDERS = tuple(f"{folder}/" for folder in _BELOW)
_PATTERNS = {folder: re.compile(pattern, re.ASCII) for folder, pattern in _BELOW.items()}


def is_own_segment(name: str) -> bool:
    """Return whether one segment of a key may be ours: accepted characters, and not another program's hidden name."""
    return bool(SEGMENT.fullmatch(name)) and (not name.startswith(".") or name in _DOTTED)


def is_own_key(key: str) -> bool:
    """Return whether an object is one that this project writes. Below other folders than a corpus has, any name is."""
    segments = key.split("/")
    if not all(map(is_own_segment, segments)):
        return False
    pattern = _PATTERNS.get(segments[0])
    if pattern is None or len(segments) == 1:
        return True
    return bool(pattern.fullmatch("/".join(segments[1:])))
