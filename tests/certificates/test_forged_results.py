"""A dishonest signer who makes results up, with digests, figures and signatures to match, is found out."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from perturb.certificates.envelope import PLAN_TYPE, seal
from perturb.certificates.folder import CertificateFolder, broken_name, pack, unpack
from perturb.certificates.measure import distance_columns
from perturb.certificates.page import render_page
from perturb.certificates.plan import parse_plan, timestamp
from perturb.certificates.statement import Observed, derive, digest_of
from perturb.certificates.tables import POOL, RESULTS, read_table, write_table
from perturb.sandbox.stored import decode_stored
from perturb.schemas.errors import AuditError
from perturb.schemas.image import encode_png, pixel_identity
from perturb.schemas.png import PngRefused
from perturb.subnet.keys import companion_keypair, load_keypair
from tests.certificates.conftest import Made, first_fault, statement_of
from tests.support.certificates import PLANNED_AT, ROUND_8, resign


def forge(
    made: Made,
    *,
    rows: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda rows: rows,
    plan: Callable[[dict[str, Any]], dict[str, Any]] = lambda plan: plan,
    observed: Callable[[dict[str, Any]], dict[str, Any]] = lambda observed: observed,
    members: Callable[[dict[str, bytes]], dict[str, bytes]] = lambda members: members,
) -> None:
    """Make the whole certificate anew around a lie: plan, results, evidence, digests, figures and signatures."""
    folder = CertificateFolder(made.folder)
    statement = statement_of(made.folder)
    block = statement["predicate"]["robustness"]
    new_plan = parse_plan(plan(block["plan"]), "forged")
    hotkey = load_keypair(made.settings.subnet)
    companion = companion_keypair(made.settings.subnet, hotkey.ss58_address)
    folder.write("plan.json", seal(PLAN_TYPE, new_plan.body(), hotkey=hotkey, companion=companion))
    results = rows(read_table(folder.read("results.parquet"), RESULTS, ""))
    folder.write("results.parquet", write_table(results, RESULTS))
    folder.write("evidence.tar", pack(members(unpack(folder.read("evidence.tar"), ""))))
    digests = {name: digest_of(folder.read(name)) for name in ("pool.parquet", "evidence.tar", "results.parquet")}
    pool = read_table(folder.read("pool.parquet"), POOL, "")
    seen = Observed.model_validate(observed(block["observed"]))
    statement = derive(new_plan, pool, results, seen, digests)
    with suppress(AuditError):
        packed = unpack(folder.read("evidence.tar"), "")
        folder.write("report.html", render_page(statement, results, packed).encode())
    resign(made.settings, made.folder, statement)


def survived(row: dict[str, Any]) -> dict[str, Any]:
    names = ("by", "perturbed", "adversarial_label", "margin", "linf_levels", "l0", "psnr", "ssim", "float_by")
    gone: dict[str, Any] = dict.fromkeys(names)
    sources = {"autoattack": False, "grid": False, "crowd": False, "float_only": False}
    return {**row, **gone, **sources, "status": "survived"}


def test_results_that_were_made_up(copy: Made) -> None:
    shutil.copytree(copy.folder, copy.folder.parent / "kept")
    lies: list[tuple[dict[str, Any], str, str]] = [
        ({"rows": lambda rows: rows[2:]}, "L3", "need more or less"),
        ({"rows": lambda rows: rows[2:4] + rows[:2] + rows[4:]}, "L3", "not those of one image in its place"),
        ({"rows": lambda rows: [{**rows[0], "seed": 1}, *rows[1:]]}, "L3", "the seed is not the one"),
        ({"rows": lambda rows: [{**row, "status": "lucky"} for row in rows]}, "L3", "status 'lucky' is not known"),
        (
            {"rows": lambda rows: [survived(row) if row["by"] else row for row in rows]},
            "L5",
            "evidence.tar lacks",
        ),
        ({"rows": lambda rows: [{**row, "l0": 1} if row["l0"] else row for row in rows]}, "L5", "l0 is"),
        ({"members": without_witnesses}, "L4", "evidence.tar lacks"),
        ({"members": swapped}, "L5", "has other pixels"),
        (
            {"rows": lambda rows: [{**row, "margin": "9.999"} if row["margin"] else row for row in rows]},
            "L5",
            "has a margin of",
        ),
        (
            {"observed": lambda seen: {**seen, "pulse": ROUND_8}},
            "L3",
            "the beacon is round 8, the plan names round 1000",
        ),
        (
            {"observed": lambda seen: {**seen, "pulse": {**seen["pulse"], "signature": ROUND_8["signature"]}}},
            "L3",
            "is not that of drand's quicknet",
        ),
        ({"observed": lambda seen: {**seen, "pulse": None}}, "L3", "names a beacon and the statement has none"),
        (
            {"plan": lambda plan: {**plan, "created_at": timestamp(PLANNED_AT + timedelta(hours=1))}},
            "L3",
            "the plan was made at",
        ),
        (
            {
                "plan": lambda plan: {**plan, "created_at": timestamp(PLANNED_AT + timedelta(hours=1))},
                "observed": lambda seen: {**seen, "evaluatedAt": timestamp(PLANNED_AT + timedelta(hours=2))},
            },
            "L3",
            "round 1000 is not the first one of quicknet a minute after the plan",
        ),
        ({"plan": lambda plan: {**plan, "purpose": "another"}}, "L3", "the sample is not the one"),
    ]
    for lie, level, sentence in lies:
        shutil.rmtree(copy.folder)
        shutil.copytree(copy.folder.parent / "kept", copy.folder)
        forge(copy, **lie)
        found = first_fault(copy)
        assert found[0] == level, (sentence, found)
        assert sentence in found[1], found


def without_witnesses(members: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in members.items() if not name.endswith(".perturbed.png")}


def swapped(members: dict[str, bytes]) -> dict[str, bytes]:
    first, second = [name for name in members if name.endswith(".perturbed.png")][:2]
    return {**members, first: members[second], second: members[first]}


def test_a_file_that_breaks_nothing(copy: Made) -> None:
    """The unchanged image with one value moved, in the place of a witness: its size is right, its label is not."""
    rows = read_table((copy.folder / "results.parquet").read_bytes(), RESULTS, "")
    identity = next(row["identity"] for row in rows if row["status"] == "broken")
    png = unpack((copy.folder / "evidence.tar").read_bytes(), "")[f"{identity}.clean.png"]
    (clean,) = decode_stored([(png, 32, 32)])
    assert not isinstance(clean, PngRefused)
    nudged = clean.copy()
    nudged[0, 0, 0] ^= 1
    lie = {"perturbed": pixel_identity(nudged), **distance_columns(clean, nudged)}
    forge(
        copy,
        rows=lambda rows: [{**row, **lie} if row["identity"] == identity else row for row in rows],
        members=lambda members: {**members, broken_name(identity): encode_png(nudged)},
    )
    level, fault = first_fault(copy)
    assert level == "L5"
    assert "is seen as class" in fault
