"""The checklist of Carlini et al. 2019, "On evaluating adversarial robustness", arXiv:1902.06705, filled in."""

from collections.abc import Sequence
from typing import Any

from perturb.certificates.figures import Figures
from perturb.certificates.plan import Plan


def checklist(plan: Plan, figures: Figures, flags: Sequence[str], canary: tuple[int, int]) -> list[dict[str, Any]]:
    """Return the items: what is asked, `done`, `not_done` or `not_applicable`, and where the evidence is."""
    has_gradient = plan.subject.access == "gradients"
    largest = figures.levels()[-1]
    items: list[tuple[str, bool | None, str]] = [
        ("the threat model is stated", True, "threatModel"),
        ("the bound is justified for the intended purpose", bool(plan.purpose), "plan.purpose"),
        ("the evaluation was fixed before it ran", True, "preRegistration"),
        ("the sample was drawn by public randomness", plan.beacon.kind != "none", "selection.beacon"),
        ("clean accuracy is reported", True, "cleanAccuracy"),
        ("weights and code are identified by digests", True, "plan.subject, plan.suite"),
        ("success is reported for each image", True, "results.parquet"),
        ("success is reported against the size of the change", len(plan.levels) > 1, "levels"),
        ("a larger change never breaks fewer images", "larger_not_worse" not in flags, "levels"),
        ("at the largest level every image falls", largest["survived"] == 0, "levels"),
        ("an iterative white-box attack ran", has_gradient, "plan.suite.attacks"),
        ("an attack without gradients ran", "square" in plan.suite.attacks, "plan.suite.attacks"),
        ("a transfer attack ran: other people's perturbations", plan.suite.crowd, "crowdAgainstAutoAttack"),
        ("a hard-label attack ran", False, ""),
        ("an attack was adapted to this network", False, ""),
        ("the attacks were tried on networks with planted weaknesses", canary[0] == canary[1], "canary"),
        ("randomised networks are attacked in expectation", False if "randomised" in flags else None, "flags"),
        ("all hyper-parameters and seeds are stated", True, "plan.suite, results.parquet"),
        ("the broken images are published", True, "evidence.tar"),
    ]
    words = {True: "done", False: "not_done", None: "not_applicable"}
    return [{"item": item, "status": words[done], "evidence": where} for item, done, where in items]
