"""Nothing leaves that a tier does not grant.

The property is non-interference: an export doesn't change by a byte when everything that the tier withholds is changed
or taken away: withheld columns get other values, withheld rows vanish. What can't change the export can't be in it:
not in a card, a statistic, a plot, a file name, nor in the order of rows.
"""

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from perturb.schemas.image import encode_png
from perturb.schemas.png import stored_pixels
from perturb.schemas.record import Record, record_id, record_schema
from perturb.schemas.settings import SealSettings
from perturb.schemas.tier import Tier, grantable
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.commit import commit_records
from perturb.tasks.corpus.seal import seal_day
from perturb.tasks.export.export import export
from perturb.tasks.export.plan import image_bytes
from perturb.tasks.tiers.tier_file import load_tiers
from tests.support.corpora import HOTKEYS, make_row
from tests.support.png_writers import png_of

DAY = date(2026, 1, 1)
KEY = SecretStr("k" * 32)


@dataclass(frozen=True)
class Where:
    """A predicate twice: for DuckDB, and in Python, so that the test need not believe DuckDB."""

    sql: str
    columns: frozenset[str]
    holds: Callable[[dict[str, Any]], bool]


WHERES = (
    Where("true", frozenset(), lambda row: True),
    Where("linf_levels <= 2", frozenset({"linf_levels"}), lambda row: row["linf_levels"] <= 2),
    Where("margin >= 2 or true_label = 1", frozenset({"margin", "true_label"}),
          lambda row: row["margin"] >= 2 or row["true_label"] == 1),
    Where("persists.jpeg75", frozenset({"persists"}), lambda row: row["persists"]["jpeg75"]),
    Where("len(list_filter(transfer, lambda t: t.flipped)) > 0", frozenset({"transfer"}),
          lambda row: any(each["flipped"] for each in row["transfer"])),
    Where("source_url is not null and subject like 'a%'", frozenset({"source_url", "subject"}),
          lambda row: row["source_url"] is not None),
)  # fmt: skip
VIEWS = {"minimal": ("linf_levels = 1", "linf_levels"), "sure": ("margin > 1", "margin")}
# Pixels and their digests are what is sold; `created_at` places a round in its day.
FIXED = {"original_sha256", "perturbed_sha256", "height", "width", "outcome", "created_at", "round_id"}
FIXED |= {f"{image}_{part}" for image in ("original", "perturbed") for part in ("shard", "offset", "length")}


@st.composite
def tiers(draw: st.DrawFn) -> tuple[Tier, Where]:
    identity = draw(st.sampled_from(["none", "pseudonym", "hotkey"]))
    columns = draw(st.lists(st.sampled_from(grantable(identity)), min_size=1, max_size=12, unique=True))
    where = draw(st.sampled_from(WHERES))
    views = {name: sql for name, (sql, column) in VIEWS.items() if column in columns}
    fraction = draw(st.sampled_from([1.0, 0.6, 0.3]))
    tier = Tier(
        name="t", description="d", where=where.sql, columns=tuple(columns), fraction=fraction, miner=identity,
        views=views, license="l", layouts=draw(st.sampled_from([("pairs", "wds"), ("pairs", "by_photo")])),
    )  # fmt: skip
    return tier, where


@dataclass
class Round:
    original: np.ndarray
    rows: list[dict[str, Any]]
    bodies: list[bytes]


@st.composite
def rounds(draw: st.DrawFn) -> list[Round]:
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    made = []
    for number in range(draw(st.integers(1, 4))):
        original = random.integers(8, 248, (8, 8, 3), np.uint8)
        rows, bodies = [], []
        for miner in range(draw(st.integers(1, 4))):
            perturbed = (original + random.integers(0, 2, original.shape) * (1 + miner % 3)).astype(np.uint8)
            accepted = draw(st.booleans()) or miner == 0
            bodies.append(encode_png(perturbed))
            extra = {"near_duplicate_of": rows[0]["record_id"]} if accepted and miner == 2 else {}
            record = make_row(
                DAY, number=number, miner=miner, original=original, perturbed=perturbed, body=bodies[-1],
                accepted=accepted, height=8, width=8, **extra,
            )  # fmt: skip
            rows.append(record.model_dump())
        made.append(Round(original, rows, bodies))
    return made


def granted_row(row: dict[str, Any], tier: Tier, where: Where) -> bool:
    """The grant in words of its own."""
    if row["outcome"] != "accepted" or not where.holds(row):
        return False
    pair = hashlib.sha256(f"{row['original_sha256']}|{row['perturbed_sha256']}".encode()).hexdigest()[:32]
    drawn = hmac.new(KEY.get_secret_value().encode(), f"fraction\0{pair}".encode(), hashlib.sha256).hexdigest()
    return int(drawn[:13], 16) / 16**13 < tier.fraction


def other(value: Any, kind: str) -> Any:
    """A value of the same kind that is not this one."""
    if kind == "string":
        return f"withheld-{hashlib.sha256(repr(value).encode()).hexdigest()[:12]}"
    if kind == "bool":
        return not value
    if kind.startswith("timestamp"):
        return value + timedelta(seconds=7)
    if kind == "list<item: int64>":
        return (*value, 7)
    return (value or 0) + 1 if kind in ("int64", "double") else None


def without_the_rest(made: list[Round], tier: Tier, where: Where) -> list[Round]:
    """The same corpus after everything that the tier withholds was changed or taken away."""
    kept = FIXED | set(tier.granted) | where.columns
    if tier.miner == "pseudonym":
        kept |= {"miner_hotkey"}
    changed = []
    for each in made:
        rows = [(row, body) for row, body in zip(each.rows, each.bodies, strict=True) if granted_row(row, tier, where)]
        fresh = [scrambled(row, kept) for row, _ in rows]
        names = {row["record_id"]: new["record_id"] for (row, _), new in zip(rows, fresh, strict=True)}
        bodies = [body if tier.miner == "hotkey" else other_file(body) for _, body in rows]
        for new, body in zip(fresh, bodies, strict=True):
            new["body_sha256"] = hashlib.sha256(body).hexdigest()
            if "near_duplicate_of" in kept:
                new["near_duplicate_of"] = names.get(new["near_duplicate_of"])
        if rows:
            changed.append(Round(each.original, fresh, bodies))
    return changed


def other_file(body: bytes) -> bytes:
    """Another PNG of the same pixels, twice as long: stored instead of compressed, in many chunks."""
    return png_of(stored_pixels(body), level=0, row_filter=0, idat=4)


def scrambled(row: dict[str, Any], kept: set[str]) -> dict[str, Any]:
    new = dict(row)
    for field in record_schema():
        if field.name not in kept:
            new[field.name] = other(row[field.name], str(field.type))
    if "task_id" not in kept:
        new["task_id"] = hashlib.md5(row["task_id"].encode()).hexdigest()
    if "miner_hotkey" not in kept:
        new["miner_hotkey"] = HOTKEYS[(HOTKEYS.index(row["miner_hotkey"]) + 5) % len(HOTKEYS)]
    if "record_id" not in kept:
        new["record_id"] = record_id(new["created_at"], new["task_id"], new["miner_hotkey"], new["perturbed_sha256"])
    return new


def exported(folder: Path, made: list[Round], tier: Tier) -> dict[str, bytes]:
    """Every file of the export of such a corpus."""
    corpus = Corpus(open_store(str(folder)))
    for each in made:
        records = [Record(**row) for row in each.rows]
        bodies = {row["record_id"]: body for row, body in zip(each.rows, each.bodies, strict=True)}
        accepted = {record.record_id: bodies[record.record_id] for record in records if record.outcome == "accepted"}
        commit_records(corpus, records, encode_png(each.original), accepted)
    seal_day(corpus, DAY, settings=SealSettings(grace_minutes=0, reverify_fraction=0), early=True)
    export(corpus, tier, today=DAY + timedelta(days=400), key=KEY)
    root = folder / "exports"
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {name: _masked(name, data) for name, data in sorted(found.items())}


def _masked(name: str, data: bytes) -> bytes:
    """A day's Merkle root commits to every record, withheld ones too. It tells nothing.

    It stands in the index of the day and in the contents, which add the indexes up.
    """
    if "/.perturb/" not in name:
        return data
    fields = json.loads(data)
    if name.endswith("/contents.json"):
        return json.dumps(fields | {"days": sorted(fields["days"])}).encode()
    return json.dumps(fields | {"merkle_root": ""}).encode()


def _differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def check(folder: Path, tier: Tier, where: Where, made: list[Round]) -> None:
    changed = without_the_rest(made, tier, where)
    if not changed:
        return
    before, after = exported(folder / "before", made, tier), exported(folder / "after", changed, tier)
    # Names, not contents: pytest would spend minutes on a readable difference of two Parquet files.
    assert _differing(before, after) == []
    rows = sum(len(each.rows) for each in changed)
    assert json.loads(before["t/.perturb/2026-01-01.json"])["records"] == rows


@pytest.mark.slow
@settings(
    max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(tier=tiers(), made=rounds())
def test_what_is_withheld_cannot_change_an_export(
    tmp_path_factory: pytest.TempPathFactory, plain_plots: None, tier: tuple[Tier, Where], made: list[Round]
) -> None:
    check(tmp_path_factory.mktemp("leaks"), *tier, made)


def _rounds(number: int, miners: int) -> list[Round]:
    random = np.random.default_rng(5)
    made = []
    for place in range(number):
        original = random.integers(8, 248, (8, 8, 3), np.uint8)
        images = [
            (original + random.integers(0, 2, original.shape) * (1 + m % 3)).astype(np.uint8) for m in range(miners)
        ]
        bodies = [encode_png(image) for image in images]
        rows = [
            make_row(
                DAY, number=place, miner=m, original=original, perturbed=image, body=body, accepted=m < miners - 1,
                height=8, width=8,
            ).model_dump()
            for m, (image, body) in enumerate(zip(images, bodies, strict=True))
        ]  # fmt: skip
        made.append(Round(original, rows, bodies))
    return made


@pytest.mark.parametrize("name", ["sample", "research", "professional", "enterprise"])
def test_shipped_tiers_withhold_what_they_say(tmp_path: Path, plain_plots: None, name: str) -> None:
    tier = load_tiers(Path("tiers.toml"))[name].model_copy(update={"name": "t"})
    where = {
        "linf_levels <= 4": Where("", frozenset({"linf_levels"}), lambda row: row["linf_levels"] <= 4),
        "linf_levels <= 8": Where("", frozenset({"linf_levels"}), lambda row: row["linf_levels"] <= 8),
        "true": WHERES[0],
    }[tier.where]
    check(tmp_path, tier, where, _rounds(5, 5))


def _grants_more(patch: pytest.MonkeyPatch) -> None:
    granted = Tier.granted.fget
    patch.setattr(Tier, "granted", property(lambda tier: tuple(dict.fromkeys([*granted(tier), "score"]))))


def _samples_nothing_away(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("perturb.tasks.tiers.grant.in_fraction", lambda pair, fraction, *, key: True)


def _orders_by_miner(patch: pytest.MonkeyPatch) -> None:
    import perturb.tasks.tiers.grant as module

    ordered = module._in_order
    by_miner = [("__split", "ascending"), ("record_id", "ascending")]
    patch.setattr(module, "_in_order", lambda rows, names: ordered(rows, names).sort_by(by_miner))


def _keeps_record_ids(patch: pytest.MonkeyPatch) -> None:
    import perturb.tasks.tiers.grant as module

    original = module._public

    def public(rows: Any, tier: Tier, names: Any) -> Any:
        return original(
            rows.set_column(rows.column_names.index("__sample_id"), "__sample_id", rows["record_id"]), tier, names
        )

    patch.setattr(module, "_public", public)


def _keeps_files(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("perturb.tasks.export.write_day.reencode", lambda pairs: [pair.perturbed for pair in pairs])


def _cuts_by_files(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("perturb.tasks.export.write_day.cutting_bytes", lambda rows, tier: image_bytes(rows))


MUTATIONS = [_grants_more, _samples_nothing_away, _orders_by_miner, _keeps_record_ids, _keeps_files, _cuts_by_files]


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_property_sees_a_leak(
    tmp_path: Path, plain_plots: None, monkeypatch: pytest.MonkeyPatch, mutation: Callable[[pytest.MonkeyPatch], None]
) -> None:
    tier = Tier(name="t", description="d", columns=("linf", "true_label"), fraction=0.6, license="l",
                layouts=("pairs", "wds", "by_photo"))  # fmt: skip
    # Several row groups, so that a cut by the length of a file would show.
    monkeypatch.setattr("perturb.sinks.dataset.writers.GROUP_BYTES", 1500)
    check(tmp_path / "right", tier, WHERES[0], _rounds(5, 5))
    if mutation is _grants_more:
        # What the tier grants is asked before the mutation, as the operator who wrote it down understood it.
        kept = tier.granted
        mutation(monkeypatch)
        made = _rounds(5, 5)
        with pytest.MonkeyPatch.context() as honest:
            honest.setattr(Tier, "granted", property(lambda _: kept))
            changed = without_the_rest(made, tier, WHERES[0])
        assert exported(tmp_path / "a", made, tier) != exported(tmp_path / "b", changed, tier)
        return
    mutation(monkeypatch)
    with pytest.raises(AssertionError):
        check(tmp_path / "wrong", tier, WHERES[0], _rounds(5, 5))
