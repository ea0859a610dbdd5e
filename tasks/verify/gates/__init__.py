"""The gates, in the order in which every answer meets them, cheapest first.

`GATES` is the only list of them. `perturb.tasks.verify.round.verify` is a loop over it, `merge_slices` runs its round
gates and takes over what the slices found in the others, and `reverify` compares the columns that it names. The first
gate that refuses an answer gives its outcome. The order is that of the members of `perturb.schemas.outcome.Outcome`.

CONTRIBUTING.md says how to add a gate: the files in their order, and the test that must fail first.
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
