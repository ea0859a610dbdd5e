"""The gates, in the order in which every answer meets them, cheapest first.

`GATES` is the only list of them. `perturb.tasks.verify.round.verify` is a loop over it, `merge_slices` runs its round
gates and takes over what the slices found in the others, and `reverify` compares the columns that it names. The first
gate that refuses an answer gives its outcome. The order is that of the members of `perturb.schemas.outcome.Outcome`.

To add a gate, begin with the test, and touch:

1. `tests/tasks/verify/test_round.py`: a round with one answer at the gate's boundary and one beyond it. It fails first.
2. `schemas/outcome.py`: the outcome, at the gate's place in the order.
3. `schemas/verdict.py` (`Findings`) and `schemas/record.py` (`Record`, with the description that readers see): the
   columns, if it measures something. `tasks/tiers` refuses to grant a column that is in no group; `docs/corpus.md` says
   when a new column is a new format.
4. A class in `pixel.py`, `model.py`, `accepted.py` or a file of its own: a `FigureGate` where the decision follows from
   figures in the record, so that rows of refused answers are checked too; else a `Gate`.
5. `GATES` below.

`tests/tasks/verify/test_gates.py` then holds that every outcome and every column has its gate, in this order.
A bound that the gate compares with belongs into `schemas/bounds.py`, from where it travels in each challenge.
"""

from perturb.tasks.verify.gates.accepted import NearDuplicates, TryPersistence, TryTransfer
from perturb.tasks.verify.gates.base import FigureGate, Gate
from perturb.tasks.verify.gates.model import Flip, SemanticMismatch
from perturb.tasks.verify.gates.pixel import CompleteSsim, Decode, Duplicates, Linf, MeasureDistances, Psnr, Ssim

GATES: tuple[Gate, ...] = (
    Decode(),
    Duplicates(),
    MeasureDistances(),
    Linf(),
    Psnr(),
    Ssim(),
    Flip(),
    CompleteSsim(),
    SemanticMismatch(),
    NearDuplicates(),
    TryPersistence(),
    TryTransfer(),
)

__all__ = ["GATES", "FigureGate", "Gate"]
