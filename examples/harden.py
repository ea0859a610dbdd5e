"""Harden the classifier with an export, and measure the gain on photographs that were not trained on.

    python examples/harden.py exports/research/parquet [--folds 5] [--epochs 4] [--blend 0.5]

Fine-tunes the last stages of the attacked network on clean and perturbed images. The loss has three parts:
cross-entropy on both, and the divergence of what the network says about either from what it said about the clean image
before, so that the network changes little (consistency: Zheng et al. 2016, arXiv:1604.04326; distillation: Hinton et
al. 2015, arXiv:1503.02531). The weights that are kept lie `--blend` of the way from the old to the tuned ones, which
spares clean images more than it gives up elsewhere (Wortsman et al. 2022, arXiv:2109.01903).

Photographs are dealt into folds; each network is measured on photographs of which it saw no image while training.
Reported are accuracy on clean images and their mirror images, on the export's held-out perturbations, and under fresh
PGD made against the network itself (Madry et al. 2018, arXiv:1706.06083), before and after. Intervals are 95 %
percentiles of a bootstrap over photographs, not over pairs, because the perturbations of one photograph fall together.
The last line of the output is a JSON object.

Limits: such a set removes the weaknesses that it contains, for this network. It does not protect against new attacks on
the hardened network; the line on fresh PGD shows this.
"""

import argparse
import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.nn import functional

from perturb.models.classifier import Classifier, load_classifier
from perturb.schemas.image import Pixels, pixel_identity
from perturb.schemas.settings import load_settings

_BATCH = 32
_RESAMPLES = 2000


@dataclass(frozen=True)
class Pairs:
    """An export in memory. `photo[i]` is the place in `clean` of the photograph that `perturbed[i]` was made from."""

    clean: Pixels
    labels: np.ndarray
    perturbed: Pixels
    photo: np.ndarray
    fold: np.ndarray


@dataclass(frozen=True)
class Change:
    """An accuracy before and after, and a 95 % interval of the difference, all in points (0..100)."""

    before: float
    after: float
    low: float
    high: float


@dataclass(frozen=True)
class Hardened:
    """Results of `harden`, all on held-out photographs."""

    photographs: int
    pairs: int
    clean: Change
    perturbed: Change
    fresh_pgd: Change


def load_pairs(path: str, *, folds: int) -> Pairs:
    """Return every pair of a `parquet/` root. A photograph's fold follows from its pixels."""
    import datasets

    splits = datasets.load_dataset(path)
    clean: dict[str, Pixels] = {}
    labels, perturbed, photo = [], [], []
    for row in datasets.concatenate_datasets(list(splits.values())):
        pixels = np.asarray(row["original"])
        identity = pixel_identity(pixels)
        if identity not in clean:
            clean[identity] = pixels
            labels.append(row["true_label"])
        photo.append(list(clean).index(identity))
        perturbed.append(np.asarray(row["perturbed"]))
    order = sorted(clean, key=lambda identity: hashlib.sha256(identity.encode()).digest())
    fold = np.array([order.index(identity) % folds for identity in clean])
    return Pairs(np.stack(list(clean.values())), np.array(labels), np.stack(perturbed), np.array(photo), fold)


class Split(nn.Module):
    """A timm EfficientNet in two parts: `trunk` is not trained, so its output is computed once; `head` is trained."""

    def __init__(self, classifier: Classifier, stages: int):
        super().__init__()
        net: Any = copy.deepcopy(classifier.module)
        self.mean, self.std, inner = net.mean, net.std, net.net
        if not 0 < stages < len(inner.blocks):
            raise SystemExit(f"--stages {stages}: {classifier.name} has {len(inner.blocks)}; choose fewer, at least 1")
        self.first = nn.Sequential(inner.conv_stem, inner.bn1, *inner.blocks[:-stages])
        self.last = nn.ModuleList([*inner.blocks[-stages:], inner.conv_head, inner.bn2])
        self.pool = inner.forward_head
        self.tail = nn.ModuleList([inner])  # Holds what `forward_head` reads.
        self.eval()

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of float RGB (N, 3, H, W) in 0..1."""
        features: torch.Tensor = self.first((images - self.mean) / self.std)
        return features

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits of features."""
        for part in self.last:
            features = part(features)
        logits: torch.Tensor = self.pool(features)
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of images."""
        return self.head(self.trunk(images))

    def learning(self) -> list[nn.Parameter]:
        """Return the weights that are tuned. All other weights, and all statistics of normalisations, stay the same."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        chosen = [*self.last.parameters(), *self.tail[0].classifier.parameters()]
        for parameter in chosen:
            parameter.requires_grad_(True)
        return chosen


def as_images(pixels: Pixels) -> torch.Tensor:
    """Return uint8 (N, H, W, 3) as float (N, 3, H, W) in 0..1."""
    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255


def mirrored(pixels: Pixels) -> Pixels:
    """Return the images with left and right exchanged."""
    return pixels[:, :, ::-1]


def batched(step: Callable[[torch.Tensor], torch.Tensor], pixels: Pixels) -> torch.Tensor:
    """Return the results of `step` for all images, computed a few at a time, without gradients."""
    with torch.no_grad():
        return torch.cat([step(as_images(pixels[at : at + _BATCH])) for at in range(0, len(pixels), _BATCH)])


@dataclass(frozen=True)
class Features:
    """The trunk's output for every image: float (view, N, C, h, w). The views are the image and its mirror image."""

    clean: torch.Tensor
    perturbed: torch.Tensor


def features_of(network: Split, pairs: Pairs) -> Features:
    """Return the features of all pairs. The trunk is not trained, so they are computed once for all folds."""
    both = [
        torch.stack([batched(network.trunk, view) for view in (pixels, mirrored(pixels))])
        for pixels in (pairs.clean, pairs.perturbed)
    ]
    return Features(*both)


def train(
    network: Split, pairs: Pairs, features: Features, held_out: int, *, epochs: int, rate: float, seed: int
) -> None:
    """Tune `network` on the photographs of all folds but one; images and mirror images, clean and perturbed."""
    random = torch.Generator().manual_seed(seed)
    chosen = torch.from_numpy(np.flatnonzero(pairs.fold[pairs.photo] != held_out))
    photo, labels = torch.from_numpy(pairs.photo), torch.from_numpy(pairs.labels)
    known = torch.stack([logits_of(network, view) for view in features.clean])
    optimizer = torch.optim.AdamW(network.learning(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(chosen) // _BATCH))
    for _ in range(epochs):
        for places in chosen[torch.randperm(len(chosen), generator=random)].split(_BATCH):
            view = int(torch.randint(2, (1,), generator=random))
            at = photo[places]
            before = functional.log_softmax(known[view, at], dim=1)
            loss = torch.zeros(())
            for seen in (features.clean[view, at], features.perturbed[view, places]):
                logits = network.head(seen)
                now = functional.log_softmax(logits, dim=1)
                loss = loss + functional.cross_entropy(logits, labels[at])
                loss = loss + functional.kl_div(now, before, log_target=True, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def blend(network: Split, before: Split, share: float) -> None:
    """Move the weights of `network` back, to `share` of the way from those of `before` to its own."""
    with torch.no_grad():
        for tuned, old in zip(network.parameters(), before.parameters(), strict=True):
            tuned.copy_(torch.lerp(old, tuned, share))


def logits_of(network: Split, features: torch.Tensor) -> torch.Tensor:
    """Return the logits of (N, C, h, w) features, computed a few at a time, without gradients."""
    with torch.no_grad():
        return torch.cat([network.head(part) for part in features.split(_BATCH)])


def fresh_pgd(network: Split, pixels: Pixels, labels: np.ndarray, *, epsilon: float, steps: int, seed: int) -> Pixels:
    """Return images attacked by untargeted L-inf PGD against `network` itself, from a random start.

    They are rounded to the 8-bit grid inside the box.
    """
    random = torch.Generator().manual_seed(seed)
    levels = max(1, round(epsilon * 255))
    found = []
    for at in range(0, len(pixels), _BATCH):
        clean, truth = as_images(pixels[at : at + _BATCH]), torch.from_numpy(labels[at : at + _BATCH])
        images = clean + (2 * torch.rand(clean.shape, generator=random) - 1) * levels / 255
        for _ in range(steps):
            images = images.clamp(0, 1).requires_grad_(True)
            (gradient,) = torch.autograd.grad(functional.cross_entropy(network(images), truth), images)
            images = images.detach() + levels / 255 / 4 * gradient.sign()
            images = torch.minimum(torch.maximum(images, clean - levels / 255), clean + levels / 255)
        grid = (images.clamp(0, 1) * 255).round().to(torch.uint8)
        found.append(grid.permute(0, 2, 3, 1).numpy())
    return np.concatenate(found)


def right(network: Split, features: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """Return for each image whether the network gives it its label."""
    return logits_of(network, features).argmax(dim=1).numpy() == labels


def change(before: np.ndarray, after: np.ndarray, photo: np.ndarray, *, seed: int = 0) -> Change:
    """Return both accuracies, and the interval of their difference under a bootstrap over photographs."""
    names = np.unique(photo)
    gain = [(after[photo == name].astype(float) - before[photo == name]) for name in names]
    totals, sizes = np.array([part.sum() for part in gain]), np.array([len(part) for part in gain])
    drawn = np.random.default_rng(seed).integers(0, len(names), (_RESAMPLES, len(names)))
    differences = 100 * totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.percentile(differences, [2.5, 97.5])
    return Change(100 * before.mean(), 100 * after.mean(), float(low), float(high))


def harden(
    pairs: Pairs,
    classifier: Classifier,
    *,
    epochs: int,
    stages: int,
    rate: float,
    share: float,
    epsilon: float,
    pgd_steps: int,
    pgd_photographs: int,
    seed: int = 0,
) -> Hardened:
    """Train one network a fold, and measure each on the photographs that it did not see."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {"clean": [], "perturbed": [], "pgd": []}
    before = Split(classifier, stages)
    features = features_of(before, pairs)
    for fold in track(range(pairs.fold.max() + 1), "training and attacking", console=Console(stderr=True)):
        after = Split(classifier, stages)
        train(after, pairs, features, fold, epochs=epochs, rate=rate, seed=seed + fold)
        blend(after, before, share)
        photos = np.flatnonzero(pairs.fold == fold)
        for view in features.clean:
            seen = [right(net, view[photos], pairs.labels[photos]) for net in (before, after)]
            found["clean"].append((seen[0], seen[1], photos))
        mine = np.flatnonzero(pairs.fold[pairs.photo] == fold)
        truth = pairs.labels[pairs.photo[mine]]
        seen = [right(net, features.perturbed[0, mine], truth) for net in (before, after)]
        found["perturbed"].append((seen[0], seen[1], pairs.photo[mine]))
        few = photos[: -(-pgd_photographs // (pairs.fold.max() + 1))]
        seen = []
        for net in (before, after):
            attacked = fresh_pgd(net, pairs.clean[few], pairs.labels[few], epsilon=epsilon, steps=pgd_steps, seed=seed)
            seen.append(right(net, batched(net.trunk, attacked), pairs.labels[few]))
        found["pgd"].append((seen[0], seen[1], few))
    joined = {name: [np.concatenate(part) for part in zip(*parts, strict=True)] for name, parts in found.items()}
    changes = {name: change(*parts) for name, parts in joined.items()}
    return Hardened(len(pairs.clean), len(pairs.perturbed), changes["clean"], changes["perturbed"], changes["pgd"])


def main(arguments: Sequence[str] | None = None) -> Hardened:
    """Read the arguments, run, print a table and a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", help="a parquet/ root")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--stages", type=int, default=2, help="number of the network's last stages that are trained")
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate")
    parser.add_argument(
        "--blend", type=float, default=0.5, help="share of the way from the old to the tuned weights, 0..1"
    )
    parser.add_argument("--pgd-epsilon", type=float, default=1 / 255, help="L-inf of the fresh attack, 0..1")
    parser.add_argument("--pgd-steps", type=int, default=20)
    parser.add_argument("--pgd-photographs", type=int, default=40, help="number of photographs that it is made on")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    pairs = load_pairs(options.export, folds=options.folds)
    found = harden(
        pairs, load_classifier(load_settings().classifier), epochs=options.epochs, stages=options.stages,
        rate=options.rate, share=options.blend, epsilon=options.pgd_epsilon, pgd_steps=options.pgd_steps,
        pgd_photographs=options.pgd_photographs, seed=options.seed,
    )  # fmt: skip
    print(f"{found.photographs} photographs, {found.pairs} pairs, every figure on photographs held out from training")
    rows = (("clean", found.clean), ("held-out perturbations", found.perturbed), ("fresh PGD", found.fresh_pgd))
    for name, each in rows:
        print(f"{name:>24}: {each.before:5.1f} % -> {each.after:5.1f} %  ({each.low:+.1f} to {each.high:+.1f} points)")
    print(json.dumps(asdict(found)))
    return found


if __name__ == "__main__":
    main()
