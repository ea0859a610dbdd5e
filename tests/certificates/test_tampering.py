"""Whatever is changed in a certificate is named, also by a signer who signs anew."""

import base64
import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturb.certificates.envelope import STATEMENT_TYPE, hotkey_id, open_envelope, seal, with_signatures
from perturb.certificates.folder import CERTIFICATE
from perturb.certificates.verify import Request, Skipped, trusts, verify
from perturb.subnet.keys import load_keypair
from tests.certificates.conftest import Made, first_fault, statement_of
from tests.support.certificates import NOW, certificate_settings, certified, planned, resign

FILES = ("plan.json", "pool.parquet", "evidence.tar", "results.parquet", CERTIFICATE)


def test_the_untouched_certificate_holds(made: Made) -> None:
    found = made.verified()
    assert [level.outcome for level in found.levels] == ["holds"] * 5 + ["skipped"] * 2
    assert found.status == "valid"
    late = verify(Request(made.file, None, trusts([]), NOW + timedelta(days=366), made.subject))
    assert late.status == "expired"


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
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
