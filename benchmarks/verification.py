"""How fast this project verifies rounds, against a verifier that takes one response at a time.

    python benchmarks/verification.py --photos DIR [--only 224,512] [--repeats 3] [--device cpu]

The peer is written after what is publicly described of the subnet's validator: for each response it decodes the
clean image again, asks the network at batch 1 before the cheap gates, and computes SSIM by average pooling. It stops
at the first gate that fails, like ours. Both run in this process on the same bytes, the same network, the same number
of threads and in turns; the ratio is the median of the turns. Accepted answers are compared one by one.

A round is mixed in equal parts (`--good` changes that): good answers (one-level PGD, thinned out differently for
each), out of bounds, low in SSIM, without a flip, duplicates, corrupt files. The two verifiers compute different SSIMs.
So a photograph is left out, and counted, unless its good answers are clearly above the bound by both definitions and
its answers of low SSIM clearly below it. Any folder of photographs will do, if enough of them are left.

The network runs on images side by side where there are several threads, the peer's in the threads of its convolutions.
`decode` is the share of our time that decoding takes, `isolate` the part of it that goes to doing it in processes that
may die.
Needs neither Prefect nor bittensor nor datasets.
"""

import argparse
import io
import json
import os
import secrets
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image

from perturb.models.classifier import Classifier, load_classifier
from perturb.models.judge.judge import NoJudge
from perturb.models.metrics import CleanSsim, clean_moments, distances, max_squares
from perturb.models.prediction import predict
from perturb.sandbox.pool import DecodePool
from perturb.schemas.bounds import Bounds
from perturb.schemas.challenge import Challenge, Origin, Task, Terms
from perturb.schemas.image import Pixels, encode_png, pixel_identity
from perturb.schemas.png import PngRefused, read_png
from perturb.schemas.response import Response
from perturb.schemas.settings import ClassifierSettings, Settings
from perturb.tasks.verify.round import verify

SCENES = {
    "224": ClassifierSettings(persistence=False),
    "512": ClassifierSettings(persistence=False, input_size=512),
    "b5": ClassifierSettings(persistence=False, name="tf_efficientnet_b5", weights="random:0"),
}
# How far from the SSIM bound, by both definitions, and how far from a tie of the labels, in logits, answers must be.
CLEAR_SSIM_LOW = 0.01
CLEAR_SSIM_GOOD = 0.002
CLEAR_MARGIN = 0.2
P = ParamSpec("P")
T = TypeVar("T")
FORBIDDEN = ("prefect", "bittensor", "datasets")


def main() -> None:
    """Prints a table; the last line is a JSON object."""
    arguments = _arguments()
    photos = sorted(path for path in arguments.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    rows = [
        measure(
            scene,
            size,
            photos,
            repeats=arguments.repeats,
            device=arguments.device,
            clock=arguments.clock,
            good=arguments.good,
        )
        for scene in arguments.only.split(",")
        for size in map(int, (arguments.sizes or ("32" if scene == "b5" else "8,32,128")).split(","))
    ]
    print(
        f"\n{'round':>10} {'ours ms':>9} {'peer ms':>9} {'ratio':>6} {'decode':>7} {'isolate':>8} {'peak MB':>8}"
        "  outcomes"
    )
    for row in rows:
        print(
            f"{row.scene + ' x' + str(row.size):>10} {row.ours * 1e3:9.0f} {row.peer * 1e3:9.0f} {row.ratio:6.1f} "
            f"{row.decode_share:7.1%} {row.isolation_share:8.1%} {row.peak_mb:8.0f}  {row.outcomes}"
        )
    loaded = [name for name in FORBIDDEN if name in sys.modules]
    assert not loaded, f"the verification core imported {loaded}"
    result: dict[str, object] = {f"ratio_{row.scene}": round(row.ratio, 2) for row in rows if row.size == 32}
    result |= {f"peak_mb_{row.scene}_128": round(row.peak_mb) for row in rows if row.size == 128}
    result |= {f"decode_share_{row.scene}": round(row.decode_share, 3) for row in rows if row.size == 32}
    result |= {f"isolation_share_{row.scene}": round(row.isolation_share, 3) for row in rows if row.size == 32}
    result |= {
        "device": arguments.device,
        "clock": arguments.clock,
        "good": round(arguments.good, 3),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--only", default="224,512,b5", help="scenes to run: 224, 512, b5")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--good", type=float, default=1 / 6, help="share of good answers; the rest in equal parts")
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"), help="cpu on a machine that is not idle")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--sizes", default="", help="responses in a round; 8,32,128 by default, 32 for b5")
    return parser.parse_args()


@dataclass(frozen=True)
class Row:
    """One line of the table; times in seconds."""

    scene: str
    size: int
    ours: float
    peer: float
    ratio: float
    decode_share: float
    isolation_share: float
    peak_mb: float
    outcomes: str


def measure(scene: str, size: int, photos: list[Path], *, repeats: int, device: str, clock: str, good: float) -> Row:
    """Times one scene at one round size, ours and the peer in turns on the same rounds."""
    settings = Settings(classifier=SCENES[scene].model_copy(update={"device": device}))
    classifier = load_classifier(settings.classifier)
    if settings.classifier.weights.kind == "random":
        _spread_logits(classifier)
    print(f"{scene} x{size}: ", end="")
    rounds = make_rounds(classifier, settings, photos, size=size, count=repeats, good=good)
    with DecodePool() as pool:
        now = time.perf_counter if clock == "wall" else partial(_cpu_seconds, pool)
        judge = NoJudge()

        def ours(challenge: Challenge, responses: list[Response]) -> list[str]:
            verdicts = verify(challenge, responses, classifier=classifier, judge=judge, settings=settings, pool=pool)
            return [verdict.outcome for verdict in verdicts]

        def peer(challenge: Challenge, responses: list[Response]) -> list[str]:
            return [sequential(challenge, response, classifier) for response in responses]

        challenge, responses = rounds[0]
        ours(challenge, responses[:4])
        peer(challenge, responses[:2])
        ours_s, peer_s, decode_s, trusting_s, peaks = [], [], [], [], []
        for challenge, responses in rounds:
            with _peak_memory() as peak:
                found, seconds = _timed(now, ours, challenge, responses)
            ours_s.append(seconds)
            peaks.append(peak[0])
            theirs, seconds = _timed(now, peer, challenge, responses)
            peer_s.append(seconds)
            _compare(found, theirs)
            bodies = [response.body for response in responses]
            task = challenge.task
            decode_s.append(_timed(now, lambda b, t: pool.decode(b, height=t.height, width=t.width), bodies, task)[1])
            trusting_s.append(_timed(now, _decode_trustingly, bodies, task)[1])
    outcomes = ", ".join(f"{name} {count}" for name, count in Counter(found).most_common())
    return Row(
        scene=scene,
        size=size,
        ours=statistics.median(ours_s),
        peer=statistics.median(peer_s),
        ratio=statistics.median(p / o for p, o in zip(peer_s, ours_s, strict=True)),
        decode_share=statistics.median(d / o for d, o in zip(decode_s, ours_s, strict=True)),
        isolation_share=statistics.median((d - t) / o for d, t, o in zip(decode_s, trusting_s, ours_s, strict=True)),
        peak_mb=max(peaks) / 2**20,
        outcomes=outcomes,
    )


def _decode_trustingly(bodies: list[bytes], task: Task) -> None:
    """Every distinct file in this process, in as many threads as the pool has workers: decoding without its sandbox."""

    def read(body: bytes) -> None:
        with suppress(PngRefused):
            read_png(body, height=task.height, width=task.width)

    with ThreadPoolExecutor(min(16, len(os.sched_getaffinity(0)))) as threads:
        list(threads.map(read, set(bodies)))


def _timed(now: Callable[[], float], call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> tuple[T, float]:
    started = now()
    result = call(*arguments, **named)
    return result, now() - started


def _cpu_seconds(pool: DecodePool) -> float:
    """CPU time of this process, of the pool's processes and of those that they have had, so far (Linux)."""
    ticks = os.sysconf("SC_CLK_TCK")
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pool.processes()]
    return time.process_time() + sum(int(ticked) for field in fields for ticked in field[11:15]) / ticks


def _spread_logits(classifier: Classifier) -> None:
    # A freshly initialised network says nearly the same number for every class, which no margin tolerance survives.
    # Scaled to the spread of a trained one it costs the same time and decides like one.
    head = classifier.module.net.get_classifier()
    blank = np.zeros((1, classifier.height, classifier.width, 3), np.uint8)
    with torch.no_grad():
        image = torch.from_numpy(blank).permute(0, 3, 1, 2).float().to(classifier.device)
        head.weight.mul_(2.0 / float(classifier.module(image).std()))
        head.bias.zero_()


def _compare(ours: list[str], theirs: list[str]) -> None:
    # The peer knows no duplicates, and its SSIM is another one; the rounds have no answers between the two.
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine != "duplicate":
            assert (mine == "accepted") == (other == "accepted"), f"response {index}: ours {mine}, peer {other}"


def sequential(challenge: Challenge, response: Response, classifier: Classifier) -> str:
    """The peer: one response from its bytes to an outcome, everything computed for it alone."""
    task, device = challenge.task, classifier.device
    clean = _tensor(challenge.png, device)
    try:
        perturbed = _tensor(response.body, device)
    except (OSError, SyntaxError, ValueError):
        return "corrupt"
    if perturbed.shape != clean.shape:
        return "wrong_size"
    with torch.inference_mode():
        if int(classifier.module(perturbed).argmax()) == task.true_label:
            return "no_flip"
        delta = perturbed - clean
        linf = float(delta.abs().max())
        if not task.bounds.epsilon_min - 1e-6 <= linf <= task.bounds.epsilon + 1e-6:
            return "linf"
        mse = float((delta**2).mean())
        if 10 * np.log10(1 / mse) < task.bounds.min_psnr:
            return "psnr_too_low"
        if float(average_pool_ssim(clean, perturbed)) < task.bounds.min_ssim:
            return "ssim_too_low"
    return "accepted"


def _tensor(png: bytes, device: torch.device) -> torch.Tensor:
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div(255).to(device)


def average_pool_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """SSIM with uniform 11 x 11 windows, five average poolings, tensors (1, 3, H, W) in 0..1."""

    def pool(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(values, 11, stride=1, padding=5)

    mu_x, mu_y = pool(x), pool(y)
    var_x, var_y, cov = pool(x * x) - mu_x**2, pool(y * y) - mu_y**2, pool(x * y) - mu_x * mu_y
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mu_x * mu_y + c1) * (2 * cov + c2) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))).mean()


Round = tuple[Challenge, list[Response]]


def make_rounds(
    classifier: Classifier, settings: Settings, photos: list[Path], *, size: int, count: int, good: float
) -> list[Round]:
    """The first `count` rounds that the photographs make. Prints how many photographs were left out, and why."""
    rounds: list[Round] = []
    left_out: Counter[str] = Counter()
    for number, path in enumerate(photos):
        with Image.open(path) as image:
            clean = classifier.prepare(np.asarray(image.convert("RGB")))
        made = _round(classifier, settings, clean, number=number, size=size, good=good)
        if isinstance(made, str):
            left_out[made] += 1
            continue
        rounds.append(made)
        if len(rounds) == count:
            break
    reasons = "; ".join(f"{reason}: {times}" for reason, times in left_out.most_common())
    print(f"{len(rounds)} photographs make a round, {left_out.total()} left out" + (f" ({reasons})" if reasons else ""))
    if len(rounds) < count:
        raise SystemExit(
            f"only {len(rounds)} of {len(photos)} photographs make a round, {count} are needed; give more photographs"
        )
    return rounds


def _round(
    classifier: Classifier, settings: Settings, clean: Pixels, *, number: int, size: int, good: float
) -> Round | str:
    """A round on one photograph, or why it makes none."""
    logits = classifier.logits(clean[None])[0]
    # Random weights see nothing: their least likely class stands in, so that everything there is a flip.
    random = settings.classifier.weights.kind == "random"
    label = int(logits.argmin() if random else logits.argmax())
    if abs(predict(logits, true_label=label).margin) < CLEAR_MARGIN:
        return "the label is not clear"
    generator = np.random.default_rng(number)
    strong = _noise(clean, 1, generator) if random else attack(classifier, clean, label, seed=number)
    if strong is None:
        return "12 steps of the attack don't flip the label"
    kinds = _kinds(size, good)
    accepted = [_thinned(clean, strong, generator) for _ in range(kinds.good)]
    predictions = [predict(row, true_label=label) for row in classifier.logits(np.stack(accepted))]
    if any(found.margin < CLEAR_MARGIN for found in predictions):
        return "an answer flips too narrowly"
    least = settings.bounds.min_ssim
    if any(min(_both_ssims(clean, pixels)) < least + CLEAR_SSIM_GOOD for pixels in accepted):
        return "one level is low in SSIM"
    noisy = _low_ssim(clean, strong, settings.bounds, kinds.low_ssim, generator)
    if noisy is None:
        return "the noise disappears in the texture"
    bodies = [encode_png(pixels) for pixels in accepted]
    cheap = [encode_png(_noise(strong, 20, generator)) for _ in range(kinds.out_of_bounds)]
    cheap += [encode_png(pixels) for pixels in noisy]
    cheap += [encode_png(_sparse(clean, generator)) for _ in range(kinds.no_flip)]
    cheap += [bodies[index % kinds.good] for index in range(kinds.duplicates)]
    cheap += [bodies[index % kinds.good][: -100 - index] for index in range(kinds.corrupt)]
    bodies += cheap
    responses = [
        Response(miner_uid=place, miner_hotkey=f"miner-{place}", response_ms=100.0 + place, body=bodies[index])
        for place, index in enumerate(generator.permutation(len(bodies)))
    ]
    return _challenge(classifier, settings, clean, label), responses


class _Kinds(NamedTuple):
    """How many answers of each kind a round has."""

    good: int
    out_of_bounds: int
    low_ssim: int
    no_flip: int
    duplicates: int
    corrupt: int


def _kinds(size: int, good: float) -> _Kinds:
    count = max(1, round(size * good))
    share, rest = divmod(size - count, 5)
    return _Kinds(count, *(share + (kind < rest) for kind in range(5)))


def _low_ssim(
    clean: Pixels, strong: Pixels, bounds: Bounds, count: int, generator: np.random.Generator
) -> list[Pixels] | None:
    """Answers whose SSIM is clearly too low by both definitions, and whose norms are in bounds.

    Noise of 4 levels everywhere does it on most photographs. Elsewhere stronger noise goes where the photograph is
    flattest, as much of it as PSNR allows. Returns None where even that disappears in the texture.
    """
    variance = clean_moments(clean)[2]
    most_squares = max_squares(bounds.min_psnr, clean.size)
    for levels in range(4, bounds.max_levels):
        # Uniform noise of L levels has the energy L (L + 1) / 3; the perturbation below it has 1 at most.
        share = min(1.0, (0.97 * most_squares / clean.size - 1) / (levels * (levels + 1) / 3))
        flat = variance <= np.quantile(variance, share)
        images = [np.where(flat, _noise(strong, levels, generator), strong) for _ in range(count)]
        found = [distances(clean, image) for image in images]
        in_bounds = all(d.squares <= most_squares and d.linf_levels <= bounds.max_levels for d in found)
        most = bounds.min_ssim - CLEAR_SSIM_LOW
        if in_bounds and all(max(_both_ssims(clean, image)) <= most for image in images):
            return images
    return None


def _both_ssims(clean: Pixels, perturbed: Pixels) -> tuple[float, float]:
    """SSIM as this project defines it, and as the peer does."""
    x, y = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 for pixels in (clean, perturbed))
    return CleanSsim(clean)(perturbed), float(average_pool_ssim(x, y))


def attack(classifier: Classifier, clean: Pixels, label: int, *, seed: int) -> Pixels | None:
    """A strong one-level perturbation by PGD on the integer grid; None where 12 steps don't flip with 4 logits."""
    start = torch.from_numpy(clean.copy()).permute(2, 0, 1)[None].float().to(classifier.device)
    delta = torch.zeros_like(start)
    for _ in range(12):
        image = (start + delta).clamp(0, 255).requires_grad_(True)
        logits = classifier.module(image / 255)[0]
        margin = torch.cat([logits[:label], logits[label + 1 :]]).max() - logits[label]
        if margin.item() > 4:
            return image.detach().to(torch.uint8)[0].permute(1, 2, 0).cpu().numpy().copy()
        margin.backward()
        assert image.grad is not None
        delta = (delta + image.grad.sign()).clamp(-1, 1)
    return None


def _thinned(clean: Pixels, strong: Pixels, generator: np.random.Generator) -> Pixels:
    return np.where(generator.random(clean.shape) < 0.95, strong, clean)


def _noise(pixels: Pixels, levels: int, generator: np.random.Generator) -> Pixels:
    noise = generator.integers(-levels, levels + 1, pixels.shape)
    return np.clip(pixels.astype(np.int16) + noise, 0, 255).astype(np.uint8)


def _sparse(clean: Pixels, generator: np.random.Generator) -> Pixels:
    changed = clean.copy()
    changed[generator.integers(0, clean.shape[0], 20), generator.integers(0, clean.shape[1], 20), 0] ^= 1
    return changed


def _challenge(classifier: Classifier, settings: Settings, clean: Pixels, label: int) -> Challenge:
    task = Terms(
        task_salt=secrets.token_hex(16),
        true_label=label,
        true_label_name=classifier.label_name(label),
        classifier=classifier.name,
        classifier_sha256=classifier.sha256,
        bounds=settings.bounds,
        timeout_ms=20_000,
        height=classifier.height,
        width=classifier.width,
        original_sha256=pixel_identity(clean),
    ).as_task()
    origin = Origin(source="benchmark", source_id="0", clean_confidence=1, clean_margin=1, judge="none")
    return Challenge(round_id="0", created_at=datetime.now(UTC), task=task, origin=origin, png=encode_png(clean))


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """The most that resident memory grows inside, in bytes, sampled every 2 ms (Linux; 0 elsewhere)."""
    statm = Path("/proc/self/statm")
    peak, done = [0], threading.Event()

    def resident() -> int:
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0

    before = resident()

    def sample() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident() - before)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main()
