"""The gates that ask a model: does the label flip, and does the flip change the meaning?"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from perturb.models.hypernyms import hypernym_height
from perturb.models.prediction import Prediction, predict_reproducibly
from perturb.schemas.imagenet import NUM_CLASSES
from perturb.schemas.outcome import Outcome
from perturb.tasks.verify.case import Case
from perturb.tasks.verify.context import RoundContext
from perturb.tasks.verify.gates.base import EQUAL, Columns, Gate


class Flip(Gate):
    """Refuses answers in which the true label still wins, or loses by `margin_tolerance` logits or less."""

    name = "flip"
    outcomes = (Outcome.NO_FLIP,)
    columns: ClassVar[Columns] = {
        "adversarial_label": EQUAL,
        "adversarial_label_name": EQUAL,
        "adversarial_confidence": 2e-3,
        "margin": 2e-3,
    }

    def __call__(self, cases: Sequence[Case], context: RoundContext) -> None:
        """Run the classifier over all cases together."""
        if not cases:
            return
        task, tolerance = context.task, context.settings.margin_tolerance
        predictions = predict_reproducibly(
            np.stack([case.image() for case in cases]),
            true_label=task.true_label,
            classifier=context.classifier,
            boundaries=(tolerance, task.bounds.min_margin),
        )
        for case, found in zip(cases, predictions, strict=True):
            case.findings.adversarial_label = found.label
            case.findings.adversarial_label_name = context.classifier.label_name(found.label)
            case.findings.adversarial_confidence = found.confidence
            case.findings.margin = found.margin
            if not found.flipped(task.true_label, tolerance):
                case.refuse(Outcome.NO_FLIP, _no_flip(found, context))


def _no_flip(found: Prediction, context: RoundContext) -> str:
    task, enough = context.task, context.task.bounds.min_margin
    if found.label == task.true_label:
        return (
            f"the classifier still predicts {task.true_label_name!r} (confidence {found.confidence:.2f}), "
            f"{-found.margin:.3f} logits ahead of the next label; attack the rounded 8-bit image until another label "
            f"leads by {enough:g}"
        )
    return (
        f"{context.classifier.label_name(found.label)!r} leads by {found.margin:.4f} logits, a flip needs more than "
        f"{context.settings.margin_tolerance:g}; increase the lead to {enough:g}, below which the score is 0"
    )


class SemanticMismatch(Gate):
    """Refuses flips to another name of the same kind of thing, as the judge sees it, and to excluded labels.

    The challenge excludes labels that are still right about the photograph's subject, whatever the judge finds.
    """

    name = "meaning"
    outcomes = (Outcome.SEMANTIC_MATCH,)
    columns: ClassVar[Columns] = {"semantic_score": 0.05, "semantic_mismatch": EQUAL, "hypernym_height": EQUAL}
    scope = "round"

    def __call__(self, cases: Sequence[Case], context: RoundContext) -> None:
        """Ask the judge once for each label that came out."""
        task, judge = context.task, context.judge
        labels = sorted({_label(case) for case in cases})
        judgements = judge.same_kind([(task.true_label, label) for label in labels]) if labels else []
        answers = dict(zip(labels, judgements, strict=True))
        for case in cases:
            label = _label(case)
            judgement = answers[label]
            if context.classifier.num_classes == NUM_CLASSES:
                case.findings.hypernym_height = hypernym_height(task.true_label, label)
            case.findings.semantic_score = judgement.score
            case.findings.semantic_mismatch = not judgement.holds
            if judgement.holds:
                case.refuse(
                    Outcome.SEMANTIC_MATCH,
                    f"the judge {judge.name} finds that {case.findings.adversarial_label_name!r} and "
                    f"{task.true_label_name!r} are the same kind of thing; steer the attack to a label with another "
                    f"meaning",
                )
            elif label in task.excluded_labels:
                case.refuse(
                    Outcome.SEMANTIC_MATCH,
                    f"{case.findings.adversarial_label_name!r} is among the challenge's excluded_labels: it means the "
                    f"same as {task.true_label_name!r}, or is still right about what was photographed; steer the "
                    f"attack to a label that is not excluded",
                )


def _label(case: Case) -> int:
    assert case.findings.adversarial_label is not None
    return case.findings.adversarial_label
