"""Two networks on the same images: their plans, their comparison, and the page of both."""

from dataclasses import replace
from pathlib import Path

import pytest

from perturb.certificates.compare import Side, compare, page_beside, read_side
from perturb.certificates.plan import open_plan
from perturb.certificates.planning import PlanRequest, plan_certificate
from perturb.certificates.subject import load_subject
from perturb.certificates.verify import Request, trusts, verify
from perturb.schemas.errors import AuditError, SettingsError
from tests.certificates.conftest import Made
from tests.support.certificates import NOW, PLANNED_AT, certified, planned


def test_two_networks_meet_the_same_images(made: Made, tmp_path: Path) -> None:
    """The second plan takes pool, labels and sample of the first, and its certificate holds like any other."""
    first = planned(made.settings, tmp_path / "first", made.pool, n=24, beacon=False, levels=(16,), claims=())
    request = PlanRequest("tests.support.networks:retrained", "not read", 24, levels=(16,), like=first.folder)
    second = plan_certificate(made.settings, request, folder=tmp_path / "second", log=False, now=PLANNED_AT)
    files = [certified(made.settings, plan) for plan in (first, second)]
    sides = [read_side(file) for file in files]
    assert [row["identity"] for row in sides[0].results] == [row["identity"] for row in sides[1].results]
    assert sides[0].pool == sides[1].pool
    found = compare(sides[0], sides[1])
    assert (found["images"], found["otherLabels"]) == (24, 0)
    for row in found["rows"]:
        assert row["both"] + row["onlyFirst"] + row["onlySecond"] + row["neither"] == 24
        assert row["limits"] is row["p"] is None, "24 photographs are too few"
    assert found["rows"][0]["onlyFirst"] > found["rows"][0]["onlySecond"], "the labels are what the first one sees"
    verified = verify(
        Request(files[1], None, trusts([]), NOW, lambda _: load_subject(request.subject, made.settings.classifier))
    )
    assert verified.holds, [level.faults for level in verified.levels]
    page = page_beside(files[0], found).decode()
    assert "Beside tests.support.networks:retrained" in page
    assert "from 24 independent photographs, so the table says nothing about others" in page
    assert page_beside(files[0], None) == (files[0].parent / "report.html").read_bytes()
    without_labels = replace(sides[1], results=[{**row, "label": row["label"] + 1} for row in sides[1].results])
    with pytest.raises(AuditError, match="no image in common"):
        compare(sides[0], without_labels)
    with pytest.raises(AuditError, match="no level in common"):
        compare(sides[0], replace(sides[1], plan=sides[1].plan.model_copy(update={"levels": (5,)})))
    other = replace(request, subject="tests.support.networks:two_classes")
    with pytest.raises(SettingsError, match="differ in class_names_sha256"):
        plan_certificate(made.settings, other, folder=tmp_path, log=False)


def test_a_comparison_of_enough_photographs_has_limits_and_p(made: Made) -> None:
    def side(broken: int) -> Side:
        rows = [
            {
                "identity": f"{number:064x}",
                "label": 0,
                "level": 6,
                "status": "broken" if number < broken else "survived",
            }
            for number in range(40)
        ]
        return Side(plan, rows, [{"identity": row["identity"], "cluster": row["identity"]} for row in rows])

    plan = open_plan((made.folder / "plan.json").read_bytes(), "").model_copy(update={"levels": (6,)})
    clean, level = compare(side(20), side(10))["rows"]
    assert (level["first"], level["second"], level["difference"]) == ("0.500000", "0.750000", "0.250000")
    assert level["p"] == "0.001953", "ten of ten pairs that differ: 2 / 2 ** 10"
    assert 0 < float(level["limits"]["lower"]) < 0.25 < float(level["limits"]["upper"])
    assert (clean["difference"], clean["p"]) == ("0.000000", "1.000000")
