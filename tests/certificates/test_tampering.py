"""Whatever is changed in a certificate is named, also by a signer who signs anew."""

import base64
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturb.certificates.envelope import PLAN_TYPE, STATEMENT_TYPE, hotkey_id, open_envelope, seal, with_signatures
from perturb.certificates.folder import CERTIFICATE, CertificateFolder, broken_name, pack, unpack
from perturb.certificates.measure import distance_columns
from perturb.certificates.page import render_page
from perturb.certificates.plan import parse_plan, timestamp
from perturb.certificates.statement import Observed, derive, digest_of
from perturb.certificates.tables import POOL, RESULTS, read_table, write_table
from perturb.certificates.verify import Request, Skipped, trusts, verify
from perturb.sandbox.stored import decode_stored
from perturb.schemas.errors import AuditError
from perturb.schemas.image import encode_png, pixel_identity
from perturb.schemas.png import PngRefused
from perturb.subnet.keys import companion_keypair, load_keypair
from tests.certificates.conftest import Made
from tests.support.certificates import NOW, PLANNED_AT, ROUND_8, certificate_settings, certified, planned, resign

FILES = ("plan.json", "pool.parquet", "evidence.tar", "results.parquet", CERTIFICATE)


def statement_of(folder: Path) -> dict[str, Any]:
    envelope = open_envelope((folder / CERTIFICATE).read_bytes(), STATEMENT_TYPE, CERTIFICATE)
    value: dict[str, Any] = json.loads(envelope.body)
    return value


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Made:
    """The certificate in a folder that a test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(made.folder, folder)
    return replace(made, file=folder / CERTIFICATE)


def first_fault(made: Made) -> tuple[str, str]:
    """The level that finds a fault, and its first sentence."""
    found = made.verified()
    assert not found.holds
    level = next(level for level in found.levels if level.outcome == "fault")
    assert all(later.outcome == "skipped" for later in found.levels[found.levels.index(level) + 1 :])
    return level.name, level.faults[0]


def test_the_untouched_certificate_holds(made: Made) -> None:
    found = made.verified()
    assert [level.outcome for level in found.levels] == ["holds"] * 5 + ["skipped"] * 2
    assert found.status == "valid"
    late = verify(Request(made.file, None, trusts([]), NOW + timedelta(days=366), made.subject))
    assert late.status == "expired"


@pytest.mark.slow
@settings(max_examples=350, deadline=None)
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_bit_of_any_file(made: Made, name: str, place: float, bit: int) -> None:
    path = made.folder / name
    original = path.read_bytes()
    changed = bytearray(original)
    changed[int(place * len(original))] ^= 1 << bit
    path.write_bytes(changed)
    try:
        first_fault(made)
    finally:
        path.write_bytes(original)


def test_bits_of_the_page_and_bytes_after_the_end(copy: Made) -> None:
    for name in (*FILES, "report.html"):
        path = copy.folder / name
        original = path.read_bytes()
        path.write_bytes(original + b"\n")
        first_fault(copy)
        path.write_bytes(original)
    page = (copy.folder / "report.html").read_text()
    (copy.folder / "report.html").write_text(page.replace("No flag is raised", "No flag was raised"))
    assert first_fault(copy) == ("L4", "report.html is not the page of this certificate")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, member in value.items() for leaf in leaves(member, (*path, key))] or [path]
    if isinstance(value, list):
        return [leaf for index, member in enumerate(value) for leaf in leaves(member, (*path, index))] or [path]
    return [path]


def changed(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return value[:-1] + ("0" if value[-1:] != "0" else "1")
    return "something"


@pytest.mark.slow
def test_any_field_of_the_statement_signed_anew(copy: Made) -> None:
    """A signer who changes one figure and signs again is found out by what the figure should follow from."""
    statement = statement_of(copy.folder)
    # What was observed once follows from nothing else: it rests on the signature.
    observed = {"durationSeconds", "environment", "harnessVersion", "judge", "probes", "log", "canary", "classNames"}
    free = {("predicate", "robustness", "observed", name) for name in observed}
    paths = [
        path for path in leaves(statement) if path[:4] not in free and path[:3] != ("predicate", "robustness", "plan")
    ]
    assert len(paths) > 150
    for path in paths:
        forged = json.loads(json.dumps(statement))
        place = forged
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = changed(place[path[-1]])
        if path[-1] in ("evaluatedAt", "until", "from"):
            place[path[-1]] = "2023-08-20T00:00:00Z"
        resign(copy.settings, copy.folder, forged)
        level, _ = first_fault(copy)
        assert level in ("L1", "L2", "L3", "L4"), path


def test_a_plan_that_was_changed_and_signed_anew(copy: Made) -> None:
    """Every field of the plan enters its digest, and with it sample and seeds."""
    statement = statement_of(copy.folder)
    plan = statement["predicate"]["robustness"]["plan"]
    for path in leaves(plan):
        forged = json.loads(json.dumps(plan))
        place = forged
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = changed(place[path[-1]])
        resign(copy.settings, copy.folder, with_plan(statement, forged))
        level, _ = first_fault(copy)
        assert level in ("L1", "L2"), path


def with_plan(statement: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    forged: dict[str, Any] = json.loads(json.dumps(statement))
    forged["predicate"]["robustness"]["plan"] = plan
    return forged


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
        ({"members": lambda members: dict(list(members.items())[:-1])}, "L4", "evidence.tar lacks"),
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


def test_files_of_another_certificate(made: Made, copy: Made, tmp_path: Path) -> None:
    other = certified(made.settings, planned(made.settings, tmp_path / "other", made.pool, n=6)).parent
    for name in (*FILES, "report.html"):
        original = (copy.folder / name).read_bytes()
        if (other / name).read_bytes() == original:
            assert name == "pool.parquet"
            continue
        shutil.copyfile(other / name, copy.folder / name)
        first_fault(copy)
        (copy.folder / name).write_bytes(original)


def test_signatures_swapped_left_out_and_of_others(copy: Made, tmp_path: Path) -> None:
    envelope = open_envelope(copy.file.read_bytes(), STATEMENT_TYPE, "")
    pairs = [
        {"keyid": key, "sig": base64.b64encode(bytes.fromhex(value)).decode()}
        for key, value in envelope.signatures.items()
    ]
    stranger = load_keypair(certificate_settings(tmp_path).subnet)
    one, two = pairs
    for signatures, sentence in (
        ([one], "signature of ed25519:"),
        ([two], "signature of sr25519:"),
        ([], "is missing"),
        ([{**one, "sig": two["sig"]}, {**two, "sig": one["sig"]}], "is not valid for this document"),
        ([one, two, {"keyid": hotkey_id(stranger.ss58_address), "sig": one["sig"]}], "is not valid for this document"),
        ([one, two, {"keyid": "rsa:me", "sig": one["sig"]}], "which the statement does not name"),
    ):
        copy.file.write_bytes(with_signatures(STATEMENT_TYPE, envelope.body, signatures))
        level, fault = first_fault(copy)
        assert level == "L1"
        assert sentence in fault
    # Another hotkey that signs the same body is no signer of it.
    copy.file.write_bytes(seal(STATEMENT_TYPE, envelope.body, hotkey=stranger, companion=None))
    assert "is missing" in first_fault(copy)[1]


def test_a_signer_who_is_not_trusted(made: Made) -> None:
    other = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
    found = verify(Request(made.file, None, trusts([other]), NOW, made.subject))
    assert [level.outcome for level in found.levels][:2] == ["fault", "skipped"]


def test_what_is_missing_is_said(made: Made, copy: Made, tmp_path: Path) -> None:
    def absent(_: object) -> Any:
        raise Skipped("the subject's weights are not here")

    found = verify(Request(made.file, None, trusts([]), NOW, absent))
    assert [level.outcome for level in found.levels] == ["holds"] * 4 + ["skipped"] * 3
    assert found.levels[4].note == "the subject's weights are not here"
    alone = tmp_path / "alone" / CERTIFICATE
    alone.parent.mkdir()
    shutil.copyfile(made.file, alone)
    found = made.verified(alone)
    assert found.holds
    assert "name its folder with --evidence" in found.levels[1].note
    for name in ("plan.json", "pool.parquet", "evidence.tar", "results.parquet"):
        kept = (copy.folder / name).read_bytes()
        (copy.folder / name).unlink()
        assert first_fault(copy) == ("L2", f"{copy.folder} lacks {name}")
        (copy.folder / name).write_bytes(kept)
