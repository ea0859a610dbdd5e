"""What the validator's gates say of one answer, gate by gate, for people to read."""

from collections.abc import Iterator

from perturb.schemas.outcome import Outcome
from perturb.tasks.verify.gates import GATES
from perturb.tasks.verify.pair import PairVerdict


def gates_of(pair: PairVerdict) -> Iterator[dict[str, str]]:
    """Yield the gates that can refuse an answer: whether it passed, was refused there, or did not come so far."""
    refused = False
    for gate in GATES:
        # One answer alone has no other that it could be a duplicate of.
        if not gate.outcomes or Outcome.DUPLICATE in gate.outcomes:
            continue
        here = pair.verdict.outcome in gate.outcomes
        state = "not reached" if refused else "refused" if here else "passed"
        refused = refused or here
        yield {"name": gate.name, "state": state, "sentence": _sentence(gate.outcomes[0], pair)}


def _sentence(outcome: Outcome, pair: PairVerdict) -> str:
    """Return what was found by the gate with this first outcome, in one sentence; empty where it was not measured."""
    found, bounds = pair.verdict, pair.task.bounds
    match outcome:
        case Outcome.NOT_PNG:
            return (
                f"an 8-bit RGB PNG of {pair.task.width} x {pair.task.height} pixels" if found.perturbed_sha256 else ""
            )
        case Outcome.UNCHANGED if found.linf_levels is not None:
            return f"the largest change is {found.linf_levels} of {bounds.max_levels} allowed levels of 255"
        case Outcome.PSNR_TOO_LOW if found.psnr is not None:
            return f"PSNR {found.psnr:.1f} dB, at least {bounds.min_psnr:g} required"
        case Outcome.SSIM_TOO_LOW if found.ssim is not None:
            return f"SSIM {found.ssim:.4f}, at least {bounds.min_ssim:g} required"
        case Outcome.NO_FLIP if found.adversarial_label_name is not None:
            return f"the network sees {found.adversarial_label_name!r}, by {found.margin:.2f} logits"
        case Outcome.SEMANTIC_MATCH if found.semantic_mismatch is not None:
            kind = "another kind of thing" if found.semantic_mismatch else "the same kind of thing"
            return f"{found.adversarial_label_name!r} is {kind}"
    return ""
