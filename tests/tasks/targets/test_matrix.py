"""The matrix: the newest report of each target, side by side in the order of generations."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import torch
from safetensors.torch import save
from typer.testing import CliRunner

from perturb.cli import app
from perturb.schemas.report_card import ReportCard, TargetReport
from perturb.schemas.target import Target
from perturb.schemas.target_matrix import TargetMatrix
from perturb.sinks.report.arms_race import render_arms_race
from perturb.sinks.stores.open import open_store
from perturb.sinks.targets.registry import Registry
from perturb.tasks.targets.gates import judge
from perturb.tasks.targets.matrix import read_matrix

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SOUND = {"digest_matches": True, "classes": 2, "expected_classes": 2, "images": 1, "finite_images": 1}


def add(registry: Registry, name: str, generation: int | None, flips: list[dict[str, float]]) -> None:
    """Enter a target, with one report for each of `flips`."""
    weights = save({name: torch.zeros(1)})
    sha256 = hashlib.sha256(weights).hexdigest()
    registry.add(
        Target(
            name=name,
            architecture="resnet18",
            sha256=sha256,
            input_size=224,
            classes=2,
            generation=generation,
            created_at=NOW,
        ),
        weights,
    )
    for row in flips:
        shares = {made_for: {"value": v, "n": 20, "low": v, "high": v} for made_for, v in row.items()}
        card = ReportCard.model_validate({"sound": SOUND, "old_flips": shares})
        registry.add_report(
            TargetReport(
                target=name, sha256=sha256, measured_at=NOW, code_version="1", photographs=20, pairs=20, card=card,
                verdict=judge(card),
            )
        )  # fmt: skip


def test_the_newest_reports_stand_in_the_order_of_generations(tmp_path: Path) -> None:
    registry = Registry(open_store(str(tmp_path)))
    assert read_matrix(registry).reports == {}
    add(registry, "b-partner", None, [{"z-g0": 0.25}])
    add(registry, "a-g1", 1, [{"z-g0": 0.5}, {"z-g0": 0.75, "a-g1": 1.0}])
    add(registry, "z-g0", 0, [{"z-g0": 1.0}])
    add(registry, "unmeasured", 2, [])
    found = read_matrix(registry)
    assert list(found.reports) == ["z-g0", "a-g1", "b-partner"]
    assert found.made_for == ["z-g0", "a-g1"]
    assert found.flips["a-g1"]["z-g0"].value == 0.75
    shown = CliRunner().invoke(app, ["targets", "matrix", "--store", str(tmp_path)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "75.0 (75.0 to 75.0)" in shown.output


def test_the_status_page_draws_the_arms_race_with_the_figures_of_the_reports(tmp_path: Path) -> None:
    def share(value: float, width: float = 0.0) -> dict[str, float]:
        return {"value": value, "n": 20, "low": value - width, "high": value + width}

    registry = Registry(open_store(str(tmp_path)))
    assert "none was measured yet" in render_arms_race(read_matrix(registry))
    add(registry, "z-g0", 0, [{"z-g0": 1.0}])
    alone = render_arms_race(read_matrix(registry))
    assert "<svg" not in alone
    assert "Each generation forgets" not in alone
    add(registry, "a-g1", 1, [{"z-g0": 0.75}])
    matrix = read_matrix(registry)
    fresh = {"attack": "pgd", "one_level": share(0.85, 0.05), "within_bounds": share(1.0), "changed_values": 9}
    card = matrix.reports["a-g1"].card.model_dump() | {
        "control_flips": {"z-g0": share(0.95, 0.05)},
        "effort_ratio": share(1.3, 0.2),
        "fresh": [fresh | {"level": 1, "gradients": 2, "cpu_ms": 3}],
    }
    shown = matrix.reports["a-g1"].model_copy(update={"card": ReportCard.model_validate(card)})
    hostile = shown.model_copy(update={"target": "<script>"})
    page = render_arms_race(TargetMatrix({**matrix.reports, "a-g1": shown, "<script>": hostile}))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    root = ElementTree.fromstring(f"<div>{page}</div>")
    cells = [(cell.get("style"), cell.text) for cell in root.iter("td") if cell.get("class") == "share"]
    assert cells == [("--share: 1.000", "100 %"), ("--share: 0.750", "75 %"), ("--share: 0.750", "75 %")]
    beneath = [small.text for small in root.iter("small")][:2]
    assert beneath == ["100 % to 100 %", "n = 20"]
    titles = [title.text for title in root.iter("title") if "a-g1" in str(title.text)]
    assert titles == [
        "perturbations made for z-g0, a-g1: 75 % (75 % to 75 %), n = 20",
        "the same, control arm, a-g1: 95 % (90 % to 100 %), n = 20",
        "fresh pgd at one level, a-g1: 85 % (80 % to 90 %), n = 20",
        "grid's changed values, as a multiple of the parent's, a-g1: 1.30 x (1.10 x to 1.50 x), n = 20",
    ]
    # What flips more is drawn higher.
    heights = {style: root.find(f".//g[@class='{style}']/g[last()]/circle").get("cy") for style in ("old", "control")}
    assert float(heights["control"]) < float(heights["old"])


def test_status_reads_reports_for_its_page_alone_and_a_damaged_one_does_not_keep_the_page_back(tmp_path: Path) -> None:
    store, page = tmp_path / "store", tmp_path / "status.html"
    registry = Registry(open_store(str(store)))
    add(registry, "z-g0", 0, [{"z-g0": 1.0}])
    add(registry, "a-g1-of-a-long-name", 1, [{"z-g0": 0.75}])
    command = ["status", str(store)]
    shown = CliRunner().invoke(app, [*command, "--html", str(page)])
    assert "WARNING" not in shown.output
    assert ">75 %<" in page.read_text()
    assert ">a-g1-of-a-lon…<" in page.read_text()
    (report,) = store.glob("targets/z-g0/reports/*.json")
    report.write_text("{}")
    assert "WARNING" not in CliRunner().invoke(app, command).output
    shown = CliRunner().invoke(app, [*command, "--html", str(page)])
    assert "the page shows no targets" in shown.output
    assert "a report cannot be read" in page.read_text()
