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
# What lies below the folders of a corpus, as `perturb.sinks.corpus.keys`, `perturb.sinks.log.entry`,
# `perturb.sinks.targets` and `perturb.sinks.dataset.keys` name it.
_BELOW = {
    "rounds": rf"{_DAY}/[A-Za-z0-9-]+/(original\.tar|perturbed\.tar|metadata\.parquet)",
    "sealed": (
        rf"late/{_DAY}/\d{{4}}-\d{{2}}-\d{{2}}|{_DAY}/(manifest\.json|[0-9a-f]+/(manifest\.json|"
        r"(metadata|claims|models|statistics|miners)-\d+\.parquet|(original|perturbed)-\d+\.tar))"
    ),
    "log": r"(newest|\d{8})\.json|tiles/\d{8}",
    "pending": r"[A-Za-z0-9-]+/\d+\.arrow",
    "answers": r"complete\.json|[0-9a-f]{2}/[0-9a-f]{64}/\d+\.arrow",
    "targets": (
        r"by-sha256/[0-9a-f]{64}\.json|"
        r"[a-z0-9][a-z0-9_.-]*/((weights|control)\.safetensors|card\.json|reports/\d{4}\.json)"
    ),
    "line-ups": r"\d{8}-[0-9a-f]{16}\.json",
    "model-track": r"\d{8}T\d{6}Z-[0-9a-f]{16}\.json",
    "operator": r"pseudonym\.key|tiers/[^/.]+\.json",
    "exports": (
        r"[^/]+/(\.perturb/(contents|\d{4}-\d{2}-\d{2})\.json|releases/(?![^/]*\.sync-conflict-)[^/]+\.json|(parquet|wds|by_photo)/("
        r"README\.md|croissant\.json|\.meta/[0-9.]+/[a-z]+\.png|data/[a-z]+/\d{4}-\d{2}-\d{2}-\d+\.(parquet|tar)))"
    ),
}
# What no subscriber may read: the pseudonyms' key. The other folders hold what the operator may want to share.
_PRIVATE = "operator/"
FOLDERS = tuple(f"{folder}/" for folder in _BELOW)
_PATTERNS = {folder: re.compile(pattern, re.ASCII) for folder, pattern in _BELOW.items()}


def is_own_segment(name: str) -> bool:
    """Return whether one segment of a key may be ours: accepted characters, and not another program's hidden name."""
    return bool(SEGMENT.fullmatch(name)) and (not name.startswith(".") or name in _DOTTED)


def is_private(key: str) -> bool:
    """Return whether only the operator may read an object, also where others may read the corpus."""
    return key.startswith(_PRIVATE)


def is_own_key(key: str) -> bool:
    """Return whether an object is one that this project writes. Below other folders than a corpus has, any name is."""
    segments = key.split("/")
    if not all(map(is_own_segment, segments)):
        return False
    pattern = _PATTERNS.get(segments[0])
    if pattern is None or len(segments) == 1:
        return True
    return bool(pattern.fullmatch("/".join(segments[1:])))
