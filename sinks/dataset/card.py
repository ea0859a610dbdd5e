"""Dataset cards. A card lists its files one by one, so replacing it is what moves readers to the next version."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from perturb.schemas.tier import Tier
from perturb.sinks.dataset.day_index import DayDigest, ExportFile, Statistics, add_up
from perturb.sinks.dataset.features import describe, parquet_features, wds_features
from perturb.sinks.dataset.plots import top

SPLITS = ("train", "validation", "test")
# Licences that the Hub knows by name; all others are `other` to it.
_KNOWN_LICENSES = frozenset({"cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "apache-2.0", "mit"})
_IDENTITY = {
    "none": "Who made a perturbation is not told.",
    "pseudonym": "Miners stand under pseudonyms (`miner_pseudonym`) that hold within this tier and nowhere else.",
    "hotkey": "Miners stand under their hotkeys, with the signatures that they put under their answers.",
}


@dataclass(frozen=True)
class Contents:
    """Everything that a version of an export consists of, summed over its days."""

    tier: Tier
    days: tuple[date, ...]
    files: tuple[ExportFile, ...]
    statistics: Statistics

    @property
    def version(self) -> str:
        """`1.N.0` after N days: each day is a minor version, however many of them one run adds."""
        return f"1.{len(self.days)}.0"

    @property
    def records(self) -> int:
        """Rows in each root."""
        return sum(self.statistics.splits.values())

    def of(self, root: str, split: str | None = None) -> list[ExportFile]:
        """The files of one root, or of one split of it, in order."""
        return [file for file in self.files if file.root == root and split in (None, file.split)]


def contents(tier: Tier, digests: Sequence[DayDigest]) -> Contents:
    """Add up the digests of an export's days."""
    ordered = sorted(digests, key=lambda digest: digest.day)
    return Contents(
        tier=tier,
        days=tuple(digest.day for digest in ordered),
        files=tuple(file for digest in ordered for file in digest.files),
        statistics=add_up([digest.statistics for digest in ordered]),
    )


def make_card(made: Contents, root: str, *, figures: Sequence[str] = ()) -> bytes:
    """The README.md of a root; `figures` are paths of pictures relative to it."""
    tier, statistics = made.tier, made.statistics
    template = Template((files("perturb.sinks.dataset") / "card.md").read_text(encoding="utf-8"))
    text = template.substitute(
        front=_front(made, root),
        title=f"Perturb, tier {tier.name}",
        description=tier.description,
        version=made.version,
        days=len(made.days),
        first_day=made.days[0].isoformat() if made.days else "none",
        last_day=made.days[-1].isoformat() if made.days else "none",
        records=f"{made.records:,}",
        splits=", ".join(f"{split} {statistics.splits.get(split, 0):,}" for split in SPLITS),
        bytes=f"{sum(file.size for file in made.of(root)):,}",
        root=root,
        miners={"none": "not told", "pseudonym": "pseudonyms", "hotkey": "hotkeys"}[tier.miner],
        license_name=tier.license_name,
        license=tier.license,
        snippets=_snippets(made, root),
        views=_views(made, root),
        columns=_columns(tier, root),
        figures="\n\n".join([*(f"![{_alt(path)}]({path})" for path in figures), _numbers(statistics)]),
        identity=_IDENTITY[tier.miner],
        sources=_sources(statistics),
        classifiers=", ".join(_text(name) for name in statistics.counts.get("classifier", {})) or "one classifier",
    )
    return text.encode()


def _front(made: Contents, root: str) -> str:
    """The YAML between dashes: what `datasets` and the Hub read."""
    import yaml

    tier = made.tier
    known = tier.license_name in _KNOWN_LICENSES
    front: dict[str, Any] = {
        "pretty_name": f"Perturb ({tier.name})",
        "license": tier.license_name if known else "other",
        **({} if known else {"license_name": tier.license_name}),
        "language": ["en"],
        "task_categories": ["image-classification"],
        "tags": ["adversarial-examples", "robustness", "imagenet", "perturb", "bittensor"],
        "size_categories": [_size_category(made.records)],
        "configs": [_config(made, root, name, counts) for name, counts in _configs(made, root).items()],
        "dataset_info": [_info(made, root, name, counts) for name, counts in _configs(made, root).items()],
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=10_000)}---"


def _configs(made: Contents, root: str) -> dict[str, dict[str, int]]:
    """Configuration -> rows of each split that has any; views need filters, which only Parquet can."""
    views = made.statistics.views if root == "parquet" else {}
    return {"default": made.statistics.splits} | {
        name: counts for name, counts in views.items() if any(counts.values())
    }


def _config(made: Contents, root: str, name: str, counts: dict[str, int]) -> dict[str, Any]:
    return {
        "config_name": name,
        "version": made.version,
        "data_files": [
            {"split": split, "path": [file.key.removeprefix(f"{root}/") for file in made.of(root, split)]}
            for split in SPLITS
            if counts.get(split)
        ],
        **({"default": True} if name == "default" else {"filters": [[name, "==", True]]}),
    }


def _info(made: Contents, root: str, name: str, counts: dict[str, int]) -> dict[str, Any]:
    features = parquet_features(made.tier) if root == "parquet" else wds_features(made.tier)
    sizes = {split: sum(file.size for file in made.of(root, split)) for split in SPLITS if counts.get(split)}
    return {
        "config_name": name,
        "features": features._to_yaml_list(),
        "splits": [{"name": split, "num_bytes": sizes[split], "num_examples": counts[split]} for split in sizes],
        "download_size": sum(sizes.values()),
        "dataset_size": sum(sizes.values()),
    }


def _size_category(records: int) -> str:
    steps = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")]
    return next((name for limit, name in steps if records < limit), "n>10M")


def _snippets(made: Contents, root: str) -> str:
    split = next((name for name in SPLITS if made.statistics.splits.get(name)), "train")
    load = f'from datasets import load_dataset\n\nds = load_dataset("path/to/{made.tier.name}/{root}", split="{split}"'
    if root == "parquet":
        example = next((file.key.rpartition("/")[0] for file in made.of(root, split)), "parquet/data/train")
        return (
            f"{load}, streaming=True)\nrow = next(iter(ds))  # row['original'], row['perturbed'] are PIL images\n\n"
            f"import duckdb\n\nduckdb.sql(\"SELECT count(*) FROM '{example.removeprefix('parquet/')}/*.parquet'\")"
        )
    return (
        f'{load}, streaming=True)\n\nimport webdataset\n\nurls = ["…"]  # the .tar files listed above\n'
        'pairs = webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("original.png", '
        '"perturbed.png", "json")'
    )


def _views(made: Contents, root: str) -> str:
    if not made.tier.views:
        return ""
    how = 'as configuration, `load_dataset(path, "NAME")`, and ' if root == "parquet" else ""
    head = [f"Views, {how}as boolean column:", "", "| view | holds where | records |", "|---|---|---|"]
    lines = [
        f"| `{name}` | {_text(sql)} | {sum(made.statistics.views.get(name, {}).values()):,} |"
        for name, sql in made.tier.views.items()
    ]
    return "\n".join([*head, *lines])


def _columns(tier: Tier, root: str) -> str:
    head = "" if root == "parquet" else "Keys of the JSON member, beside the two PNGs:\n\n"
    images = () if root == "parquet" else ("original", "perturbed")
    lines = [f"| `{name}` | {_text(text)} |" for name, text in describe(tier).items() if name not in images]
    return head + "\n".join(["| column | |", "|---|---|", *lines])


def _numbers(statistics: Statistics) -> str:
    lines = [
        f"| `{name}` | {found.count:,} | {found.min:.6g} | {found.mean:.6g} | {found.max:.6g} |"
        for name, found in statistics.numbers.items()
    ]
    tables = [["| column | values | min | mean | max |", "|---|---|---|---|---|", *lines]] if lines else []
    if flips := top(statistics.flips, 10):
        tables.append(["| flip | records |", "|---|---|", *(f"| {_text(name)} | {count:,} |" for name, count in flips)])
    return "\n\n".join("\n".join(table) for table in tables)


def _sources(statistics: Statistics) -> str:
    parts = []
    for column, title in (("source", "Photographs by source"), ("license", "by licence")):
        if counts := statistics.counts.get(column):
            parts.append(f"{title}: " + ", ".join(f"{_text(name)} {count:,}" for name, count in top(counts, 20)))
    return f"{'; '.join(parts)}.\n" if parts else ""


def _text(value: str) -> str:
    """Text from outside as it may stand in Markdown: no markup, no table cell, no line of its own."""
    plain = " ".join("".join(sign if sign.isprintable() else " " for sign in value).split())
    return escape("".join(f"\\{sign}" if sign in "\\`*_[]()|#!~$" else sign for sign in plain[:200]))


def _alt(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".png")
