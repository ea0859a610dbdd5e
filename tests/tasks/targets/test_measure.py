"""Measuring: a network's report card on real photographs, and the gate that each sabotaged network fails.

A sabotaged network is made from the embedded one, on small pictures, which it reads as well and faster.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import skimage.data
import torch
from torch import nn

from perturb.models.classifier import Classifier, load_classifier
from perturb.schemas.report_card import ReportCard
from perturb.schemas.settings import load_settings
from perturb.tasks.targets.fresh import pgd
from perturb.tasks.targets.gates import GATES, judge
from perturb.tasks.targets.measure import HeldOut, measure

pytestmark = pytest.mark.slow
GATE = GATES["gate-1"]


@dataclass(frozen=True)
class Scene:
    """A parent, photographs with old perturbations, and the card of the parent as its own challenger."""

    parent: Classifier
    photographs: tuple[HeldOut, ...]
    card: ReportCard

    def measure(self, challenger: Classifier, **changes: object) -> ReportCard:
        """Return the card of `challenger`, of which one photograph is attacked anew."""
        given = {"photographs": self.photographs, "training": [], "watched": [0.0], "attacked": 1} | changes
        return measure(challenger, parent=self.parent, first=self.parent, control=self.parent, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def scene() -> Scene:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERTURB_CLASSIFIER__INPUT_SIZE", "96")
        parent = load_classifier(load_settings().classifier)
    photographs = []
    for name in ("chelsea", "coffee", "rocket"):
        pixels = parent.prepare(np.ascontiguousarray(getattr(skimage.data, name)()))
        label = int(parent.logits(pixels[None])[0].argmax())
        changed = pgd(parent, pixels[None], np.array([label]), level=1).pixels[0]
        photographs.append(HeldOut(pixels, label, {"lite0-g0": (changed,)}))
    bare = Scene(parent, tuple(photographs), ReportCard.model_construct())
    return replace(bare, card=bare.measure(parent))


class _Changed(nn.Module):
    """A network with something before and after it."""

    def __init__(
        self,
        net: nn.Module,
        before: Callable[[torch.Tensor], torch.Tensor] = lambda images: images,
        after: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits,
    ):
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.after(self.net(self.before(images)))


def sabotaged(parent: Classifier, **changes: Callable[[torch.Tensor], torch.Tensor]) -> Classifier:
    return replace(parent, sha256="5" * 64, module=_Changed(parent.module, **changes).eval())  # type: ignore[arg-type]


def test_the_parent_under_a_new_name_has_learned_nothing(scene: Scene) -> None:
    card = scene.card
    verdict = judge(card)
    assert verdict.gate == "learned"
    assert "parent" in str(verdict.reason)
    assert card.clean is not None
    assert card.clean.agreement is not None
    assert card.clean.agreement.value == 1
    assert card.old_flips["lite0-g0"].value == card.control_flips["lite0-g0"].value == 1
    assert [one.attack for one in card.fresh] == ["pgd", "fgsm", "grid"]
    assert all(one.one_level.value == one.within_bounds.value == 1 for one in card.fresh)
    assert 0 < card.fresh[2].changed_values < card.fresh[0].changed_values < 96 * 96 * 3
    assert all(GATE[name](card) is None for name in GATE if name != "learned")
    assert ReportCard.model_validate_json(card.model_dump_json()) == card


def test_logits_that_are_not_numbers_are_not_sound(scene: Scene) -> None:
    card = scene.measure(sabotaged(scene.parent, after=lambda logits: logits * torch.nan))
    assert judge(card).gate == "sound"
    assert "0 of 3 images" in str(judge(card).reason)
    assert card.clean is None


def test_ten_classes_are_not_sound(scene: Scene) -> None:
    card = scene.measure(replace(sabotaged(scene.parent, after=lambda logits: logits[:, :10]), num_classes=10))
    assert judge(card).gate == "sound"
    assert judge(scene.measure(scene.parent, stated_sha256="6" * 64)).gate == "sound"


def test_shuffled_labels_are_not_clean(scene: Scene) -> None:
    """A network that was trained on shuffled labels gives every class another's logit."""
    card = scene.measure(sabotaged(scene.parent, after=lambda logits: logits.roll(7, dims=1)))
    assert judge(card).gate == "clean"
    assert card.masking is None


@pytest.mark.parametrize(
    "changes",
    [{"after": lambda logits: logits * 10_000}, {"before": lambda images: (images * 15).round() / 15}],
    ids=["logits times 10,000", "16 levels"],
)
def test_masked_gradients_are_seen(scene: Scene, changes: dict[str, Callable[[torch.Tensor], torch.Tensor]]) -> None:
    """PGD finds as little as FGSM, so their comparison passes; what many levels do tells."""
    card = scene.measure(sabotaged(scene.parent, **changes))
    assert card.masking is not None
    assert card.masking.pgd.value >= card.masking.fgsm.value
    assert card.masking.pgd_8_levels.value < 0.99
    assert GATE["not masked"](card) is not None


def test_test_photographs_among_the_training_ones_are_a_leak(scene: Scene) -> None:
    card = scene.measure(scene.parent, training=[scene.photographs[1].pixels], attacked=0)
    assert card.shared_photographs == 1
    assert GATE["no leak"](card) is not None
