"""The reference attacks against each other, and against foolbox's, on photographs of known class.

    python benchmarks/attacks.py --photos DIR                  a folder source: metadata.csv or WordNet folder names
    python benchmarks/attacks.py --photos DIR --limit 20 --attacks grid,my_package.attacks:mine
    python benchmarks/attacks.py --photos DIR --load 2         beside two processes that are always busy

Every attack has the same time for every photograph that the classifier gets right, runs alone, one after the other,
and is judged by the validator's own verification (without a language model) from the PNG that would be sent. The
scores count the time that the attack took against the challenge's timeout.

The peers work on real numbers: their results are rounded to levels, which is what a miner would have to send.
They need `pip install --no-deps foolbox==3.3.4 eagerpy==0.30.0 gitpython gitdb smmap`; without it they are null.

The last line is a JSON object: attack -> flipped, flipped_in_time, one_level, changed_share_median, score_mean,
seconds_median, ...
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from perturb.attacks import ATTACKS, Attack, base, load_attack
from perturb.attacks.base import Problem
from perturb.models.classifier import Classifier, load_classifier
from perturb.models.judge.judge import load_judge
from perturb.schemas.bounds import LEVELS, Bounds
from perturb.schemas.image import Pixels, encode_png
from perturb.schemas.settings import Settings, load_settings
from perturb.sources.folder import FolderSource
from perturb.tasks.verify.pair import verify_pair
from perturb.tasks.verify.score import POLICIES, score

PEERS = ("foolbox-pgd", "foolbox-fmn")
_FMN_STEPS, _PGD_STEPS = 100, 40
# foolbox's PGD goes 4/3 of epsilon with its default steps.
_PGD_TRAVEL = 4 / 3


@dataclass(frozen=True)
class Trial:
    """One attack on one photograph, as the validator sees it; `scores` by policy."""

    outcome: str
    flipped: bool
    levels: int
    changed_share: float
    scores: dict[str, float]
    seconds: float


class FoolboxPGD:
    """foolbox's LinfPGD, at one level after the other until an answer holds; its default steps as far as they fit."""

    def __call__(
        self, classifier: Classifier, pixels: Pixels, label: int, bounds: Bounds, *, deadline: float, seed: int
    ) -> Pixels:
        """See `perturb.attacks.Attack`."""
        import foolbox

        torch.manual_seed(seed)
        problem = Problem(classifier, pixels, label, bounds, deadline)
        model, images, labels = _for_foolbox(classifier, pixels, label)
        for levels in range(bounds.min_levels, bounds.max_levels + 1):
            if problem.solved or not problem.time_left():
                break
            steps = _fitting_steps(problem, _PGD_STEPS, deadline)
            attack = foolbox.attacks.LinfPGD(steps=steps, rel_stepsize=_PGD_TRAVEL / steps)
            found, _, _ = attack(model, images, labels, epsilons=levels / LEVELS)
            _offer(problem, found - images, levels)
        return problem.answer


class FoolboxFMN:
    """foolbox's L-inf FMN (Pintor et al. 2021) with as many steps as fit into the time, its default at most.

    Where its minimum doesn't survive the rounding, it is stretched to one whole level after the other.
    """

    def __call__(
        self, classifier: Classifier, pixels: Pixels, label: int, bounds: Bounds, *, deadline: float, seed: int
    ) -> Pixels:
        """See `perturb.attacks.Attack`."""
        import foolbox

        torch.manual_seed(seed)
        problem = Problem(classifier, pixels, label, bounds, deadline)
        model, images, labels = _for_foolbox(classifier, pixels, label)
        steps = _fitting_steps(problem, _FMN_STEPS, deadline)
        found, _, _ = foolbox.attacks.LInfFMNAttack(steps=steps)(model, images, labels, epsilons=None)
        change = found - images
        _offer(problem, change, bounds.max_levels)
        for levels in range(bounds.min_levels, bounds.max_levels + 1):
            if problem.solved:
                break
            _offer(problem, change / change.abs().max().clamp(min=1e-9) * levels / LEVELS, levels)
        return problem.answer


def _fitting_steps(problem: Problem, steps: int, deadline: float) -> int:
    """At most `steps`, and no more than the time allows: foolbox can't be told a deadline."""
    begun = base.clock()
    problem.gradient(problem.allowed_change(1)[0])
    now = base.clock()
    return max(5, min(steps, int((deadline - now) / (1.3 * (now - begun)))))


def _for_foolbox(classifier: Classifier, pixels: Pixels, label: int) -> tuple[Any, torch.Tensor, torch.Tensor]:
    import foolbox

    model = foolbox.PyTorchModel(classifier.module, bounds=(0, 1), device=classifier.device)
    images = torch.from_numpy(pixels).to(classifier.device).permute(2, 0, 1)[None].float() / LEVELS
    return model, images, torch.tensor([label], device=classifier.device)


def _offer(problem: Problem, change: torch.Tensor, levels: int) -> None:
    low, high = problem.allowed_change(levels)
    candidate = problem.rounded((change * LEVELS).clamp(low, high))
    problem.offer(candidate, float(problem.margins(candidate[None])[0]))


def find_attack(name: str) -> Attack | None:
    """None for a peer that is not installed."""
    if name not in PEERS:
        return load_attack(name)
    try:
        import foolbox  # noqa: F401
    except ImportError:
        return None
    return FoolboxPGD() if name == "foolbox-pgd" else FoolboxFMN()


def right_photos(folder: Path, classifier: Classifier, limit: int | None) -> Iterator[tuple[Pixels, int]]:
    """Photographs at the classifier's size with their class, those that it sees as what they are."""
    photos = ((classifier.prepare(photo.pixels), photo.true_class) for photo in FolderSource(folder).every_photo())
    right = (
        (pixels, true_class)
        for pixels, true_class in photos
        if true_class is not None and classifier.logits(pixels[None])[0].argmax() == true_class
    )
    yield from islice(right, limit)


def try_attack(attack: Attack, pixels: Pixels, label: int, *, settings: Settings, seconds: float) -> Trial:
    """Runs the attack, and gives its answer to the validator."""
    classifier, judge = load_classifier(settings.classifier), load_judge(settings.judge, cache=settings.cache)
    began = base.clock()
    answer = attack(classifier, pixels.copy(), label, settings.bounds, deadline=began + seconds, seed=0)
    taken = base.clock() - began
    pair = verify_pair(
        encode_png(pixels), encode_png(answer), label=label, classifier=classifier, judge=judge, settings=settings
    )
    verdict = pair.verdict
    earned = {policy: score(verdict, pair.task, 1000 * taken, policy=policy).score for policy in POLICIES}
    asked = verdict.accepted and verdict.margin is not None and verdict.margin >= settings.bounds.min_margin
    return Trial(
        outcome=verdict.outcome if asked or not verdict.accepted else "margin_too_low",
        flipped=asked,
        levels=int(np.abs(answer.astype(int) - pixels).max()),
        changed_share=float((answer != pixels).mean()),
        scores=earned,
        seconds=taken,
    )


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep `count` processes beside this one always busy, each with one core; they end with this process."""
    work = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    beside = [subprocess.Popen([sys.executable, "-c", work]) for _ in range(count)]
    try:
        yield
    finally:
        for process in beside:
            process.kill()
            process.wait()


def summary(trials: list[Trial], *, seconds: float) -> dict[str, float | None]:
    """What the table shows; `changed_share_median` is over the answers that held, null where there were none.

    `flipped_in_time` is the share of all photographs that were flipped within `seconds`.
    """
    held = [trial for trial in trials if trial.flipped]
    return {
        "flipped": round(len(held) / len(trials), 4),
        "flipped_in_time": round(sum(trial.seconds <= seconds for trial in held) / len(trials), 4),
        "one_level": round(sum(trial.levels == 1 for trial in held) / len(trials), 4),
        "changed_share_median": round(median(trial.changed_share for trial in held), 5) if held else None,
        "score_mean": round(mean(trial.scores["grid-1"] for trial in trials), 4),
        "score_mean_public_1": round(mean(trial.scores["public-1"] for trial in trials), 4),
        "seconds_median": round(median(trial.seconds for trial in trials), 3),
        "seconds_max": round(max(trial.seconds for trial in trials), 3),
    }


def row(name: str, found: dict[str, float | None] | None) -> str:
    """One line of the table, in Markdown."""
    if found is None:
        return f"| {name} | not installed: see the top of this script | | | | | | | |"
    changed = found["changed_share_median"]
    return (
        f"| {name} | {found['flipped']:.1%} | {found['flipped_in_time']:.1%} | {found['one_level']:.1%} | "
        f"{'-' if changed is None else format(changed, '.2%')} | {found['score_mean']:.3f} | "
        f"{found['score_mean_public_1']:.3f} | {found['seconds_median']:.2f} | {found['seconds_max']:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs whose class is known")
    parser.add_argument("--limit", type=int, help="use only so many photographs")
    parser.add_argument("--budget-seconds", type=float, default=3.0, help="time for one photograph")
    parser.add_argument("--attacks", default=",".join((*ATTACKS, *PEERS)), help="names, or module:function")
    parser.add_argument("--threads", type=int, help="torch threads (its default: one for each core)")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count this process's CPU time, on one thread: for a machine that is busy",
    )
    parser.add_argument("--load", type=int, default=0, help="keep so many processes busy beside the attacks")
    options = parser.parse_args()
    if options.cpu_time:
        base.clock, options.threads = time.process_time, 1
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = load_settings(judge={"name": "none"})
    settings = settings.model_copy(
        update={"classifier": settings.classifier.model_copy(update={"persistence": False, "transfer": ()})}
    )
    photos = list(right_photos(options.photos, load_classifier(settings.classifier), options.limit))
    print(f"{len(photos)} photographs that {settings.classifier.name} gets right, {options.budget_seconds:g} s each\n")
    print(
        "| attack | flipped | in time | one level | changed (median) | score grid-1 | public-1 | s (median) | s (max) |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    results: dict[str, dict[str, float | None] | None] = {}
    attacks = {name: find_attack(name) for name in options.attacks.split(",")}
    trials: dict[str, list[Trial]] = {name: [] for name in attacks}
    # Attacks take turns on each photograph, so that a machine that is busy for a while is so for all of them.
    with busy_processes(options.load):
        for number, (pixels, label) in enumerate(photos, start=1):
            print(f"photograph {number}", end="\r", file=sys.stderr, flush=True)
            for name, attack in attacks.items():
                if attack is not None:
                    trials[name].append(
                        try_attack(attack, pixels, label, settings=settings, seconds=options.budget_seconds)
                    )
    for name in attacks:
        results[name] = summary(trials[name], seconds=options.budget_seconds) if trials[name] else None
        print(row(name, results[name]), flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
