"""Dataset cards. A card lists its files one by one, so that replacing the card moves readers to the next version."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any, TypedDict

from perturb.schemas.tier import SPLITS, Identity, Tier, exposures
from perturb.sinks.dataset.contents import ExportContents
from perturb.sinks.dataset.day_index import ExportFile, Statistics, export_version
from perturb.sinks.dataset.features import (
    IMAGES,
    TRUTH,
    describe,
    describe_photos,
    parquet_features,
    photo_features,
    wds_features,
)
from perturb.sinks.dataset.plots import most_common
from perturb.sinks.dataset.writers import Format

if TYPE_CHECKING:
    import datasets
    import yaml

# Licences that have an identifier on the Hub; any other licence is `other` there.
_KNOWN_LICENSES = frozenset({"cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "apache-2.0", "mit"})
_MINERS: dict[Identity, str] = {"none": "not identified", "pseudonym": "pseudonyms", "hotkey": "hotkeys"}
_IDENTITY: dict[Identity, str] = {
    "none": "This tier does not identify miners.",
    "pseudonym": "`miner_pseudonym` identifies each miner by a pseudonym that is valid within this tier only.",
    "hotkey": "`miner_hotkey` identifies each miner, and `miner_signature` is the miner's signature of the answer.",
}


_FILES = {
    True: "Images are stored as they were sent: `perturbed` is what the miner sent, byte for byte. `sample_id` is the "
    "first half of the sha256 of the two images' pixel identities joined by `|`, so it can be checked from the images.",
    False: "`original` is stored as it was sent to the miners. `perturbed` has the pixels that the miner sent, and its "
    "file is encoded anew, so that it depends on the pixels alone; a perturbation may still show which attack made it. "
    "`sample_id` and the order of rows depend on a secret of the operator: they are valid within this tier, and say "
    "nothing about miners or other tiers.",
}


_FEATURES: "dict[Format, Callable[[Tier], datasets.Features]]" = {
    "parquet": parquet_features,
    "wds": wds_features,
    "by_photo": photo_features,
}


class _DataFiles(TypedDict):
    split: str
    path: list[str]


@dataclass(frozen=True)
class Contents:
    """What a version of an export contains: its days, their files, and the statistics of all rows together."""

    tier: Tier
    days: tuple[date, ...]
    files: tuple[ExportFile, ...]
    statistics: Statistics

    @property
    def version(self) -> str:
        """`1.N.0` after N days."""
        return export_version(len(self.days))

    @property
    def records(self) -> int:
        """Pairs in each format."""
        return sum(self.statistics.splits.values())

    def rows(self, format: Format) -> dict[str, int]:
        """Rows of each split in a format: records, or photographs in `by_photo`."""
        if format != "by_photo":
            return self.statistics.splits
        return {split: sum(file.rows for file in files) for split in SPLITS if (files := self.of(format, split))}

    def of(self, format: Format, split: str | None = None) -> list[ExportFile]:
        """Return the files of one format, or of one of its splits, in order."""
        return [file for file in self.files if file.root == format and split in (None, file.split)]


def contents_of(tier: Tier, export: ExportContents) -> Contents:
    """Return what the cards of an export describe."""
    return Contents(tier=tier, days=tuple(sorted(export.days)), files=export.files, statistics=export.statistics)


def make_card(contents: Contents, format: Format, *, figures: Sequence[str] = ()) -> bytes:
    """Return the README.md of a format; `figures` are paths of figures relative to it."""
    tier, statistics = contents.tier, contents.statistics
    template = Template((files("perturb.sinks.dataset") / "card.md").read_text(encoding="utf-8"))
    text = template.substitute(
        front=_front(contents, format),
        title=f"Perturb, tier {tier.name}",
        description=tier.description,
        version=contents.version,
        days=len(contents.days),
        first_day=contents.days[0].isoformat() if contents.days else "none",
        last_day=contents.days[-1].isoformat() if contents.days else "none",
        records=f"{contents.records:,}",
        splits=", ".join(f"{split} {statistics.splits.get(split, 0):,}" for split in SPLITS),
        bytes=f"{sum(file.size for file in contents.of(format)):,}",
        root=format,
        miners=_MINERS[tier.miner],
        license_name=tier.license_name,
        license=tier.license,
        snippets=_snippets(contents, format),
        views=_views(contents, format),
        columns=_columns(tier, format),
        figures="\n\n".join([*(f"![{_alt(path)}]({path})" for path in figures), _numbers(statistics)]),
        files=_FILES[tier.shows_hotkeys],
        identity=" ".join([_IDENTITY[tier.miner], *exposures(tier)]),
        sources=_sources(statistics),
        classifiers=", ".join(_text(name) for name in statistics.counts.get("classifier", {})) or "one classifier",
    )
    return text.encode()


def _front(contents: Contents, format: Format) -> str:
    """The YAML between dashes, which `datasets` and the Hub read."""
    import yaml

    tier = contents.tier
    known = tier.license_name in _KNOWN_LICENSES
    front: dict[str, object] = {
        "pretty_name": f"Perturb ({tier.name})",
        "license": tier.license_name if known else "other",
        **({} if known else {"license_name": tier.license_name}),
        "language": ["en"],
        "task_categories": ["image-classification"],
        "tags": ["adversarial-examples", "robustness", "imagenet", "perturb", "bittensor"],
        "size_categories": [_size_category(contents.records)],
        "configs": [
            _OneLine(_config(contents, format, name, counts)) for name, counts in _configs(contents, format).items()
        ],
        "dataset_info": _infos(contents, format),
    }
    return f"---\n{yaml.dump(front, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=float('inf'))}---"


class _OneLine(dict[str, object]):
    """A mapping that YAML writes on one line, so that a card's length does not grow with files and columns."""


def _dumper() -> "type[yaml.SafeDumper]":
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    Dumper.add_representer(
        _OneLine, lambda dumper, items: dumper.represent_mapping("tag:yaml.org,2002:map", items, flow_style=True)
    )
    return Dumper


def _configs(contents: Contents, format: Format) -> dict[str, dict[str, int]]:
    """Configuration -> rows of each split that has any. Views need filters, which only Parquet supports."""
    views = contents.statistics.views if format == "parquet" else {}
    return {"default": contents.rows(format)} | {name: counts for name, counts in views.items() if any(counts.values())}


def _config(contents: Contents, format: Format, name: str, counts: dict[str, int]) -> dict[str, object]:
    files: list[_DataFiles] = [
        {"split": split, "path": [file.key.removeprefix(f"{format}/") for file in contents.of(format, split)]}
        for split in SPLITS
        if counts.get(split)
    ]
    return {
        "config_name": name,
        "version": contents.version,
        "data_files": files,
        **({"default": True} if name == "default" else {"filters": [[name, "==", True]]}),
    }


def _infos(contents: Contents, format: Format) -> list[dict[str, object]]:
    """The features and sizes of each configuration, as `datasets` writes them into a card.

    All configurations have the same features. They are one object, so that YAML writes them once and refers to them.
    """
    configs = _configs(contents, format)
    features = _FEATURES[format](contents.tier)
    described = [_info(contents, format, name, counts, features) for name, counts in configs.items()]
    return [_OneLine(info | {"features": described[0]["features"]}) for info in described]


def _info(
    contents: Contents, format: Format, name: str, counts: dict[str, int], features: "datasets.Features"
) -> dict[str, Any]:
    import datasets
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    sizes = {split: sum(file.size for file in contents.of(format, split)) for split in SPLITS if counts.get(split)}
    info = datasets.DatasetInfo(
        features=features,
        splits={split: {"name": split, "num_bytes": sizes[split], "num_examples": counts[split]} for split in sizes},
        download_size=sum(sizes.values()),
        dataset_size=sum(sizes.values()),
    )
    card = DatasetCardData()
    DatasetInfosDict({name: info}).to_dataset_card_data(card)
    return {"config_name": name, **_shared(card["dataset_info"], {})}


def _shared(value: Any, seen: dict[str, Any]) -> Any:
    """Make equal lists of names one object, which YAML writes once: parsing a thousand takes a tenth of a second."""
    if isinstance(value, list):
        return [_shared(each, seen) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: seen.setdefault(repr(inner), inner) if name == "names" else _shared(inner, seen)
        for name, inner in value.items()
    }


def _size_category(records: int) -> str:
    steps = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")]
    return next((name for limit, name in steps if records < limit), "n>10M")


def _snippets(contents: Contents, format: Format) -> str:
    split = next((name for name in SPLITS if contents.statistics.splits.get(name)), "train")
    path = f"path/to/{contents.tier.name}/{format}"
    load = f'from datasets import load_dataset\n\nds = load_dataset("{path}", split="{split}"'
    if format == "parquet":
        example = next((file.key.rpartition("/")[0] for file in contents.of(format, split)), "parquet/data/train")
        return (
            f"{load}, streaming=True)\nrow = next(iter(ds))  # row['original'], row['perturbed'] are PIL images\n\n"
            f"import duckdb\n\nduckdb.sql(\"SELECT count(*) FROM '{example.removeprefix('parquet/')}/*.parquet'\")"
        )
    if format == "by_photo":
        return (
            f"{load}, streaming=True)\nrow = next(iter(ds))\n"
            "row['image'], row['adversarial']  # a PIL image, and a list of them\n"
            "row['pairs']  # what is known of each of them, in the same order"
        )
    return (
        f'{load}, streaming=True)\n\nimport webdataset\n\nurls = ["…"]  # the .tar files listed above\n'
        'pairs = webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("original.png", '
        '"perturbed.png", "json")'
    )


def _views(contents: Contents, format: Format) -> str:
    if not contents.tier.views:
        return ""
    how = 'as configuration, `load_dataset(path, "NAME")`, and ' if format == "parquet" else ""
    what = "as boolean member of each of `pairs`" if format == "by_photo" else "as boolean column"
    head = [f"Views, {how}{what}:", "", "| view | holds where | records |", "|---|---|---|"]
    lines = [
        f"| `{name}` | {_text(sql)} | {sum(contents.statistics.views.get(name, {}).values()):,} |"
        for name, sql in contents.tier.views.items()
    ]
    return "\n".join([*head, *lines])


def _columns(tier: Tier, format: Format) -> str:
    if format == "by_photo":
        head = "One row a photograph:"
        pairs = [f"Each of `pairs`:\n\n{_descriptions(describe(tier), without=(*IMAGES, *TRUTH))}"]
        return "\n\n".join([head, _descriptions(describe_photos(tier)), *pairs])
    if format == "wds":
        return f"Keys of the JSON member, beside the two PNGs:\n\n{_descriptions(describe(tier), without=IMAGES)}"
    return _descriptions(describe(tier))


def _descriptions(texts: Mapping[str, str], *, without: Sequence[str] = ()) -> str:
    lines = [f"| `{name}` | {_text(text)} |" for name, text in texts.items() if name not in without]
    return "\n".join(["| column | |", "|---|---|", *lines])


def _numbers(statistics: Statistics) -> str:
    lines = [
        f"| `{name}` | {found.count:,} | {found.min:.6g} | {found.mean:.6g} | {found.max:.6g} |"
        for name, found in statistics.numbers.items()
    ]
    tables = [["| column | values | min | mean | max |", "|---|---|---|---|---|", *lines]] if lines else []
    if flips := most_common(statistics.flips, 10):
        tables.append(["| flip | records |", "|---|---|", *(f"| {_text(name)} | {count:,} |" for name, count in flips)])
    return "\n\n".join("\n".join(table) for table in tables)


def _sources(statistics: Statistics) -> str:
    parts = []
    for column, title in (("source", "Photographs by source"), ("license", "by licence")):
        if counts := statistics.counts.get(column):
            parts.append(
                f"{title}: " + ", ".join(f"{_text(name)} {count:,}" for name, count in most_common(counts, 20))
            )
    return f"{'; '.join(parts)}.\n" if parts else ""


def _text(value: str) -> str:
    """Text from outside, escaped for Markdown: it cannot hold markup, end a table cell or begin a line."""
    plain = " ".join("".join(sign if sign.isprintable() else " " for sign in value).split())
    return escape("".join(f"\\{sign}" if sign in "\\`*_[]()|#!~$" else sign for sign in plain[:200]))


def _alt(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".png")
