"""A real challenge and answers to it, for the tests of verification."""

import secrets
import struct
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache

import numpy as np
import skimage.data
import torch

from perturb.models.classifier import Classifier, load_classifier
from perturb.schemas.bounds import Bounds
from perturb.schemas.challenge import Challenge, Origin
from perturb.schemas.image import Pixels, encode_png
from perturb.schemas.response import Response
from perturb.schemas.settings import ClassifierSettings, Settings
from tests.support.tasks import make_task

# A smaller input than the network's own: everything here is about verdicts, and they are reached twice as fast.
SETTINGS = Settings(classifier=ClassifierSettings(persistence=False, device="cpu", input_size=160))


def classifier() -> Classifier:
    return load_classifier(SETTINGS.classifier)


@cache
def clean() -> Pixels:
    """A cup of espresso, which the classifier knows for sure."""
    return classifier().prepare(np.asarray(skimage.data.coffee()))


@cache
def label() -> int:
    return int(classifier().logits(clean()[None])[0].argmax())


def challenge(
    bounds: Bounds | None = None, pixels: Pixels | None = None, excluded_labels: tuple[int, ...] = ()
) -> Challenge:
    network = classifier()
    image = clean() if pixels is None else pixels
    task = make_task(
        image,
        task_salt=secrets.token_hex(16),
        true_label=label(),
        true_label_name=network.label_name(label()),
        classifier=network.name,
        classifier_sha256=network.sha256,
        bounds=bounds or Bounds(),
        excluded_labels=excluded_labels,
    )
    logits = np.sort(network.logits(image[None])[0].astype(float))
    origin = Origin(
        source="test",
        source_id="coffee",
        synset=network.synset(label()),
        clean_confidence=float(1 / np.exp(logits - logits[-1]).sum()),
        clean_margin=float(logits[-1] - logits[-2]),
        judge="none",
    )
    return Challenge("round", datetime.now(UTC), task, origin, encode_png(image))


def answers(bodies: Sequence[bytes]) -> list[Response]:
    """One response for each body; later ones are slower."""
    return [Response(i, f"miner-{i}", response_ms=100.0 + i, body=body) for i, body in enumerate(bodies)]


@cache
def flipped() -> Pixels:
    """A one-level PGD answer that flips with at least 3 logits."""
    return attack(want=3.0)


def attack(*, want: float, levels: int = 1, seed: int = 0, toward: int | None = None) -> Pixels:
    network, true = classifier(), label()
    start = torch.from_numpy(clean().copy()).permute(2, 0, 1)[None].float()
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randint(-levels, levels + 1, start.shape, generator=generator).float()
    for _ in range(20):
        image = (start + delta).clamp(0, 255).requires_grad_(True)
        logits = network.module(image / 255)[0]
        others = torch.cat([logits[:true], logits[true + 1 :]]).max()
        margin = others - logits[true] if toward is None else 2 * logits[toward] - others - logits[true]
        if margin.item() > want:
            break
        margin.backward()
        assert image.grad is not None
        delta = (delta + levels * image.grad.sign()).clamp(-levels, levels)
    return image.detach().to(torch.uint8)[0].permute(1, 2, 0).numpy().copy()


def thinned(image: Pixels, share: float, *, seed: int = 0) -> Pixels:
    """`image` with only `share` of its changes against the clean one kept."""
    keep = np.random.default_rng(seed).random(image.shape) < share
    return np.where(keep, image, clean())


def png(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A PNG file of these chunks, checksums right."""
    parts = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def ihdr(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
