"""Results of an evaluation that was stopped: a line of JSON for each network and photograph."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from perturb.models.classifier import Classifier
from perturb.schemas.canonical_json import canonical_json
from perturb.tasks.evaluate.data import Subject
from perturb.tasks.evaluate.evaluate import Measured, as_json, from_json, measure


def measured(
    network: Classifier, subjects: Sequence[Subject], *, levels: Sequence[int], seed: int, cache: Path
) -> Iterator[Measured]:
    """Yield the results of a network, in the order of the photographs; those of an earlier run are not computed again.

    A result belongs to the network's weights and size, the photograph with all its versions, levels and seed.
    """
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / f"{_key(network, levels, seed)}.jsonl"
    known = dict(_lines(file))
    with file.open("a", encoding="utf-8") as kept:
        for subject in subjects:
            place = _place(subject)
            if place not in known:
                known[place] = measure(network, subject, levels=levels, seed=seed)
                kept.write(json.dumps({"place": place, "result": as_json(known[place])}) + "\n")
                kept.flush()
            yield known[place]


def _key(network: Classifier, levels: Sequence[int], seed: int) -> str:
    facts = [network.sha256, network.name, network.height, network.width, list(levels), seed]
    return hashlib.sha256(canonical_json(facts)).hexdigest()[:32]


def _place(subject: Subject) -> str:
    digest = hashlib.sha256(f"{subject.identity}|{subject.label}".encode())
    for version in subject.versions:
        digest.update(hashlib.sha256(version.tobytes()).digest())
    return digest.hexdigest()


def _lines(file: Path) -> Iterator[tuple[str, Measured]]:
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            fields = json.loads(line)
            yield fields["place"], from_json(fields["result"])
        except (ValueError, KeyError, TypeError):
            # The last line of a run that was killed while it wrote.
            continue
