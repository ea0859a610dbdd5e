"""Photographs that never recur, and a cache folder that knows nothing of them, for benchmarks/throughput.py."""

import csv
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from perturb.schemas.image import Pixels

# Of the shorter side: a crop that leaves out more changes too often what the classifier sees.
_SMALLEST_CROP = 0.85


def make_fresh_photographs(photos: Path, folder: Path, *, number: int, seed: int = 0) -> None:
    """Write `number` random crops and flips of the photographs in `photos` to `folder`, with what is known of them."""
    from perturb.sources.folder import FolderSource

    folder.mkdir(parents=True)
    chance = random.Random(seed)
    known = list(FolderSource(photos).every_photo())
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "label", "class_index"])
        for place in range(number):
            photo = known[place % len(known)]
            name = f"{place:05}.png"
            Image.fromarray(_cropped(photo.pixels, chance)).save(folder / name, compress_level=1)
            table.writerow([name, photo.subject, photo.true_class])


def _cropped(pixels: Pixels, chance: random.Random) -> Pixels:
    height, width = pixels.shape[:2]
    side = int(min(height, width) * chance.uniform(_SMALLEST_CROP, 1))
    top, left = chance.randint(0, height - side), chance.randint(0, width - side)
    crop = pixels[top : top + side, left : left + side]
    return np.ascontiguousarray(crop[:, ::-1] if chance.random() < 0.5 else crop)


def link_models(cache: Path, folder: Path) -> None:
    """Make a cache folder with the converted models of `cache`, and with nothing else."""
    folder.mkdir(parents=True)
    for path in cache.glob("gemma-*"):
        (folder / path.name).symlink_to(path)


def forget_judgements(cache: Path) -> None:
    """Delete all judgements of a cache folder; tables of labels stay."""
    for path in cache.glob("judgements.sqlite*"):
        path.unlink()


@contextmanager
def without_package_file() -> Iterator[None]:
    """Do without the scores that come with the package."""
    from perturb.models.judge import judge

    kept = judge.SHIPPED
    judge.SHIPPED = Path("no such file")
    try:
        yield
    finally:
        judge.SHIPPED = kept
