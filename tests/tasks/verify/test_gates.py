"""The gates as a list: every outcome and every column has its gate, in the order in which answers meet them."""

from itertools import chain
from pathlib import Path

import pytest

from perturb.schemas.outcome import Outcome
from perturb.schemas.verdict import Findings
from perturb.tasks.verify.case import Case
from perturb.tasks.verify.gates import GATES, FigureGate, Gate
from perturb.tasks.verify.gates.pixel import CompleteSsim, Ssim
from perturb.tasks.verify.reverify import TOLERANCES


def test_every_outcome_behind_the_wire_is_given_by_one_gate_in_the_order_of_outcomes() -> None:
    members = list(Outcome)
    # The wire refuses some bodies as too large, and so does the gate that knows the image's size.
    behind_the_wire = [Outcome.TOO_LARGE, *members[members.index(Outcome.NOT_PNG) :]]
    given = list(chain.from_iterable(gate.outcomes for gate in GATES))
    assert given == behind_the_wire


def test_every_column_is_filled_in_by_one_gate() -> None:
    # The flip stands between the two that measure SSIM.
    columns = [name for gate in GATES if not isinstance(gate, CompleteSsim) for name in gate.columns]
    assert sorted(columns) == sorted(Findings.model_fields)
    assert CompleteSsim.columns == Ssim.columns


def test_names_are_unique_and_steps_that_refuse_nothing_measure_something() -> None:
    assert len({gate.name for gate in GATES}) == len(GATES)
    assert all(gate.outcomes or gate.columns for gate in GATES)


def test_a_decision_on_figures_depends_on_no_other_answer() -> None:
    assert {gate.scope for gate in GATES if isinstance(gate, FigureGate)} == {"answer"}


def test_floats_that_are_computed_again_have_a_tolerance() -> None:
    floats = {name for name, info in Findings.model_fields.items() if info.annotation == float | None}
    assert floats <= set(TOLERANCES)


def test_the_documented_gates_are_the_real_ones() -> None:
    text = (Path(__file__).parents[3] / "docs" / "scoring.md").read_text()
    table = text.partition("| gate | boundary |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert rows == [gate.name for gate in GATES if gate.outcomes]


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)
def test_a_gate_takes_a_round_without_open_cases(gate: Gate) -> None:
    from perturb.models.judge.judge import NoJudge
    from perturb.tasks.verify.context import RoundContext
    from tests.support.verification_rounds import SETTINGS, challenge, classifier

    context = RoundContext.of(challenge(), classifier=classifier(), judge=NoJudge(), settings=SETTINGS)
    cases: list[Case] = []
    gate(cases, context)
    assert cases == []
