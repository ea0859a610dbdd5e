"""What a gate is. `perturb.tasks.verify.gates` holds all of them, in their order."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from perturb.schemas.challenge import Task
from perturb.schemas.outcome import Outcome
from perturb.tasks.verify.case import Case, Refusal
from perturb.tasks.verify.context import RoundContext

#: Columns by name, each with its absolute tolerance. None: one record alone can't give the value again.
Columns = Mapping[str, float | None]
#: Tolerance of a column whose recomputed value must equal the recorded one.
EQUAL = 0.0


class Gate(ABC):
    """One step of verification: it fills in columns of the findings, refuses cases, or both.

    - `name` is for people: logs, documentation, the order in `docs/scoring.md`.
    - `outcomes` are the outcomes with which it refuses. A step that only measures has none.
    - `columns` are the fields of `Findings` that it fills in, each with the absolute tolerance at which a value that is
      computed again counts as the recorded one; None where the record alone, without the others of its round, can't
      give the value again.
    - `scope` says what the result depends on: on the "answer" alone (and the clean image), or on the whole "round". A
      round that is verified in slices runs its answer gates in the slices, and its round gates where they are merged.
    - `optional` gates run only where the settings ask for them, so a record may lack their columns.
    """

    name: ClassVar[str]
    outcomes: ClassVar[tuple[Outcome, ...]] = ()
    columns: ClassVar[Columns] = {}
    scope: ClassVar[Literal["answer", "round"]] = "answer"
    optional: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, cases: Sequence[Case], context: RoundContext) -> None:
        """Examine the open cases of a round, in the order of their responses. There may be none."""


class FigureGate(Gate):
    """A gate that decides on figures which stand in the record.

    So the row of a refused answer, which has no image, is checked by the same decision.
    """

    @abstractmethod
    def refusal(self, case: Case, task: Task) -> Refusal | None:
        """Return why the case's figures are refused, or None where they pass or were not measured."""

    def __call__(self, cases: Sequence[Case], context: RoundContext) -> None:
        """Refuse the cases whose figures are out of bounds."""
        for case in cases:
            if refusal := self.refusal(case, context.task):
                case.refuse(*refusal)
