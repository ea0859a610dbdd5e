"""A tier that does not show hotkeys tells its subscribers nothing by which a miner's rows could be picked out.

Three miners answer with pixels of one kind and write their files with three programs; one of them signs its files in
the lengths of their chunks. What remains in an export is compared with chance.
"""

import hashlib
import io
import json
import struct
import tarfile
import zlib
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from perturb.schemas.image import encode_png, pixel_identity
from perturb.schemas.png import stored_pixels
from perturb.schemas.settings import SealSettings
from perturb.schemas.tier import Identity, Tier
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.commit import commit_records
from perturb.tasks.corpus.seal import seal_day
from perturb.tasks.export.export import export
from perturb.tasks.export.preview import check_tiers
from perturb.tasks.tiers.identifiers import in_fraction, pair_id
from perturb.tasks.tiers.tier_file import load_tiers
from tests.support.corpora import HOTKEYS, make_row
from tests.support.exports import no_fsync, plain_plots
from tests.support.png_writers import png_of

__all__ = ["no_fsync", "plain_plots"]

DAY = date(2026, 1, 1)
LATER = date(2027, 1, 1)
KEY = SecretStr("a secret of the operator")
MINERS, ROUNDS, SIDE = 3, 60, 12
# The first letters of a hotkey as lengths of chunks; the file is too small for all of them.
MARK = [1 + byte % 9 for byte in HOTKEYS[2].encode()[:12]]
PROGRAMS: list[dict[str, Any]] = [
    {"level": 1, "row_filter": 0, "idat": 64},
    {"level": 9, "row_filter": 2, "idat": 10_000},
    {"level": 6, "row_filter": 1, "idat": MARK},
]
SHIPPED = Path("tiers.toml")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """One sealed day. The perturbations of all miners have the same distribution."""
    made = Corpus(open_store(str(tmp_path_factory.mktemp("identity"))))
    random = np.random.default_rng(3)
    for number in range(ROUNDS):
        original = random.integers(8, 248, (SIDE, SIDE, 3), np.uint8)
        records, bodies = [], {}
        for miner in range(MINERS):
            perturbed = (original + random.integers(0, 2, original.shape)).astype(np.uint8)
            body = png_of(perturbed, **PROGRAMS[miner])
            record = make_row(DAY, number=number, miner=miner, original=original, perturbed=perturbed, body=body)
            records.append(record)
            bodies[record.record_id] = body
        commit_records(made, records, encode_png(original), bodies)
    seal_day(made, DAY, settings=SealSettings(grace_minutes=0, reverify_fraction=0), early=True)
    return made


def tier_of(name: str, miner: Identity = "none", **options: Any) -> Tier:
    return Tier(name=name, description="d", miner=miner, license="l", **({"columns": ("true_label",)} | options))


def exported(corpus: Corpus, tier: Tier) -> list[dict[str, Any]]:
    """The rows of the export in their order, over splits and files; `miner` is what the subscriber should not know."""
    export(corpus, tier, today=LATER, key=KEY)
    folder = Path(corpus.store.url) / "exports" / tier.name
    rows = [row for file in sorted((folder / "parquet").rglob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    miners = {
        row["perturbed_sha256"]: HOTKEYS.index(row["miner_hotkey"])
        for row in corpus.table(columns=["perturbed_sha256", "miner_hotkey"]).to_pylist()
    }
    for row in rows:
        row["bytes"] = row["perturbed"]["bytes"]
        row["identity"] = pixel_identity(stored_pixels(row["bytes"]))
        row["photograph"] = pixel_identity(stored_pixels(row["original"]["bytes"]))
        row["miner"] = miners[row["identity"]]
    return rows


def style(png: bytes) -> list[float]:
    """What a PNG tells about the program that wrote it: its length, its chunks, zlib's header, the row filters."""
    lengths, data, place = [], b"", 8
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        if png[place + 4 : place + 8] == b"IDAT":
            lengths.append(length)
            data += png[place + 8 : place + 8 + length]
        place += 12 + length
    height, width = struct.unpack_from(">II", png, 16)
    filters = Counter(zlib.decompress(data)[:: 1 + 3 * width][:height])
    return [len(png), len(lengths), lengths[0], data[1], *(filters[kind] for kind in range(5))]


def place(rows: list[dict[str, Any]], number: int) -> list[float]:
    """Where a row is, in the file and among the rows of its photograph, and its id."""
    same = [other for other, row in enumerate(rows) if row["photograph"] == rows[number]["photograph"]]
    identifier = rows[number]["sample_id"]
    return [number, same.index(number), int(identifier[:8], 16), int(identifier[-8:], 16)]


def guessed(features: list[list[float]], miners: list[int]) -> float:
    """The share of rows of which the nearest of the others, feature by feature in ranks, is of the same miner."""
    values = np.array(features, float)
    ranks = np.array([np.unique(column, return_inverse=True)[1] for column in values.T], float).T
    ranks /= np.maximum(1, ranks.max(axis=0))
    apart = np.abs(ranks[:, None] - ranks[None]).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    return float(np.mean(np.array(miners)[apart.argmin(axis=1)] == np.array(miners)))


# 180 rows of three miners: a third is guessed by chance, and four standard deviations more is 0.14.
BEYOND = 1 / MINERS + 4 * (2 / 9 / (MINERS * ROUNDS)) ** 0.5


@pytest.mark.parametrize("miner", ["none", "hotkey"])
def test_neither_files_nor_ids_nor_order_tell_whose_a_row_is(
    corpus: Corpus, plain_plots: None, miner: Identity
) -> None:
    rows = exported(corpus, tier_of(f"whose-{miner}", miner))
    miners = [row["miner"] for row in rows]
    assert Counter(miners) == dict.fromkeys(range(MINERS), ROUNDS)
    assert guessed([place(rows, number) for number in range(len(rows))], miners) < BEYOND
    by_file = guessed([style(row["bytes"]) for row in rows], miners)
    # The same attack names every row of the tier that shows hotkeys and the miners' own files.
    assert by_file < BEYOND if miner == "none" else by_file == 1


def test_files_are_one_encoders_and_the_pixels_are_the_miners(corpus: Corpus, plain_plots: None) -> None:
    rows = exported(corpus, tier_of("anew"))
    signed = {
        row["perturbed_sha256"]: row["body_sha256"]
        for row in corpus.table(columns=["perturbed_sha256", "body_sha256"]).to_pylist()
    }
    assert {row["identity"] for row in rows} == signed.keys()
    for row in rows:
        assert row["bytes"] == encode_png(stored_pixels(row["bytes"]))
        assert hashlib.sha256(row["bytes"]).hexdigest() != signed[row["identity"]]
    folder = Path(corpus.store.url) / "exports" / "anew"
    in_tars = {}
    for tar in (folder / "wds").rglob("*.tar"):
        with tarfile.open(fileobj=io.BytesIO(tar.read_bytes())) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.mode) == (0, 0, archive.getmembers()[0].mode)
                if member.name.endswith(".perturbed.png"):
                    in_tars[member.name.split(".")[0]] = archive.extractfile(member).read()
    assert in_tars == {row["sample_id"]: row["bytes"] for row in rows}
    withheld = [digest.encode() for digest in signed.values()]
    for file in folder.rglob("*"):
        assert not file.is_file() or not any(digest in file.read_bytes() for digest in withheld), file


def test_where_hotkeys_are_shown_files_are_what_miners_signed(corpus: Corpus, plain_plots: None) -> None:
    rows = exported(corpus, tier_of("signed", "hotkey", columns=("@identity", "@response", "@pixels")))
    for row in rows:
        assert hashlib.sha256(row["bytes"]).hexdigest() == row["body_sha256"]
        assert row["sample_id"] == pair_id(row["original_sha256"], row["perturbed_sha256"])


def test_two_tiers_cannot_be_joined_by_ids_or_order(corpus: Corpus, plain_plots: None) -> None:
    one, two = (exported(corpus, tier_of(name, "pseudonym")) for name in ("one", "two"))
    assert {row["identity"] for row in one} == {row["identity"] for row in two}
    for column in ("sample_id", "miner_pseudonym"):
        assert not {row[column] for row in one} & {row[column] for row in two}
    plain = {pair_id(row["photograph"], row["identity"]) for row in one}
    assert not plain & {row["sample_id"] for row in one + two}
    for column in ("photograph", "identity"):
        there = {row[column]: number for number, row in enumerate(two)}
        ranks = [there[row[column]] for row in one if row["photograph"] in _train(one)]
        # Splits and photographs stay together; within a split, the order of one tier says nothing about the other's.
        assert abs(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1]) < 0.5
    same = sum(first["identity"] == second["identity"] for first, second in zip(one, two, strict=True))
    assert same < 0.1 * len(one)


def _train(rows: list[dict[str, Any]]) -> set[str]:
    from perturb.tasks.tiers.grant import split_of

    return {row["photograph"] for row in rows if split_of(row["photograph"]) == "train"}


def test_a_miner_cannot_choose_whether_an_answer_is_sampled() -> None:
    """With an id that follows from the pixels, 1.3 tries kept an answer out of a quarter, and 4 put it in."""
    random = np.random.default_rng(1)
    taken = {True: 0, False: 0}
    for wanted in taken:
        for _ in range(400):
            while True:
                pair = pair_id(random.bytes(8).hex(), random.bytes(8).hex())
                if (int(pair[:13], 16) < 0.25 * 16**13) is wanted:
                    break
            taken[wanted] += in_fraction(pair, 0.25, key=b"secret")
            assert not in_fraction(pair, 0.25, key=b"secret") or in_fraction(pair, 0.5, key=b"secret")
    # 100 each by chance, with a standard deviation below 9.
    assert all(60 < count < 140 for count in taken.values()), taken


def test_shipped_tiers_withhold_what_identifies_and_their_cards_say_what_is_left(
    corpus: Corpus, plain_plots: None
) -> None:
    for name, tier in load_tiers(SHIPPED).items():
        if tier.miner == "hotkey":
            continue
        assert not {"score", "speed", "response_ms", "body_sha256"} & set(tier.granted), name
        export(corpus, tier, today=LATER, key=KEY)
        card = (Path(corpus.store.url) / "exports" / name / "parquet" / "README.md").read_text()
        assert "encoded anew" in card
        assert "byte for byte" not in card
        assert ("allows to estimate the hotkey" in card) == (tier.miner == "pseudonym")
    notes = check_tiers(corpus, SHIPPED).notes
    assert [note.split(": ")[1] for note in notes] == ["tier research", "tier professional"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"outcome", "quality"]', '"outcome", "quality", "score"]', "The mean of `score` for each pseudonym"),
        ('"linf", "linf_levels", "psnr", "ssim"', '"linf_levels", "response_ms"', "allows to group rows by miner"),
        ('where = "linf_levels <= 4"', 'where = "miner_uid < 1005"', "selects rows by miner_uid, which it withholds"),
    ],
)
def test_tiers_check_names_what_tells_who_a_miner_is(
    corpus: Corpus, tmp_path: Path, old: str, new: str, says: str
) -> None:
    path = tmp_path / "tiers.toml"
    text = SHIPPED.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1).replace("within = ", "# within = "))
    found = check_tiers(corpus, path)
    (note,) = [note for note in found.notes if says in note]
    assert note.startswith(f"{path}, line ")
    assert found.holds


def test_an_export_without_hotkeys_depends_on_the_secret_and_on_nothing_else(
    corpus: Corpus, plain_plots: None, tmp_path: Path
) -> None:
    tier = tier_of("again", fraction=0.5)
    first = exported(corpus, tier)
    index = json.loads((Path(corpus.store.url) / "exports/again/.perturb/2026-01-01.json").read_bytes())
    other = Corpus(open_store(str(tmp_path)))
    for entry in corpus.store.entries():
        if entry.key.startswith(("sealed/", "log/")):
            other.store.put(entry.key, corpus.store.get(entry.key))
    assert exported(other, tier) == first
    assert json.loads((tmp_path / "exports/again/.perturb/2026-01-01.json").read_bytes()) == index
