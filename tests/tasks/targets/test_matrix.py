"""The matrix: the newest report of each target, side by side in the order of generations."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import save
from typer.testing import CliRunner

from perturb.cli import app
from perturb.schemas.report_card import ReportCard, TargetReport
from perturb.schemas.target import Target
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
