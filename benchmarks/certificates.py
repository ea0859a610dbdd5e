"""What a certificate costs, and whether AutoAttack's results in real numbers stay its own.

    python benchmarks/certificates.py --photos DIR                # plan, run and verify; seconds, memory
    python benchmarks/certificates.py --photos DIR --parity 30    # against run_standard_evaluation, image by image

DIR is a labelled folder of photographs, as the source `folder:DIR` takes it. The peer of `--parity` is `pyautoattack`'s
own evaluation at the same seeds with a batch of one. The last line is a JSON object.
"""

import argparse
import json
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import torch
from pyautoattack import AutoAttack

from perturb.certificates.autoattack import QUICK, run_autoattack
from perturb.certificates.places import open_subject
from perturb.certificates.planning import PlanRequest, plan_certificate
from perturb.certificates.pool import pool_photos
from perturb.certificates.run import run_certificate
from perturb.certificates.verify import Request, trusts, verify
from perturb.schemas.settings import load_settings


def main() -> None:
    """Measures, and ends in the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True, help="folder of labelled photographs")
    parser.add_argument("--subject", default="tf_efficientnet_lite0", help="as `perturb certify` takes it")
    parser.add_argument("--store", help="with --parity: the store whose registry has the subject target:NAME")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parity", type=int, default=0, metavar="IMAGES")
    parser.add_argument("--level", type=int, default=1, help="with --parity")
    arguments = parser.parse_args()
    found = _parity(arguments) if arguments.parity else _cost(arguments)
    print(json.dumps(found))


def _cost(arguments: argparse.Namespace) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        subnet = {"network": "local", "hotkey_file": Path(folder) / "hotkey"}
        settings = load_settings(store=f"{folder}/store", subnet=subnet)
        request = PlanRequest(arguments.subject, f"folder:{arguments.photos}", arguments.n)
        began = time.perf_counter()
        planned = plan_certificate(settings, request, folder=Path(folder), log=True)
        plan_s = time.perf_counter() - began
        memory = _Memory()
        began = time.perf_counter()
        summary = run_certificate(settings, planned.folder, workers=arguments.workers, log=True)
        run_s = time.perf_counter() - began
        peak = memory.stop()
        assert summary.certificate is not None
        subject = open_subject(arguments.subject, settings)
        request_ = Request(summary.certificate, None, trusts([]), datetime.now(UTC), lambda _: subject)
        verified = verify(request_)
        page = (planned.folder / "report.html").stat().st_size
    return {
        "images": summary.measured,
        "plan_s": round(plan_s, 1),
        "run_s": round(run_s, 1),
        "peak_mb": {name: round(value / 1e6) for name, value in peak.items()},
        "holds": verified.holds,
        "levels_s": {level.name: round(level.seconds, 2) for level in verified.levels if level.outcome == "holds"},
        "page_bytes": page,
    }


class _Memory:
    """The peak of this process and its children together: resident, and with shared pages counted once."""

    def __init__(self) -> None:
        self._peak = {"resident": 0, "proportional": 0}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, int]:
        self._stop.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(0.5):
            totals = {"resident": 0, "proportional": 0}
            for process in [own, *own.children(recursive=True)]:
                try:
                    used = process.memory_full_info()
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
                totals["resident"] += used.rss
                totals["proportional"] += used.pss
            self._peak = {name: max(self._peak[name], value) for name, value in totals.items()}


def _parity(arguments: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(1)
    classifier = open_subject(arguments.subject, load_settings(store=arguments.store)).classifier
    agree, fell = 0, 0
    seconds = {"early stop": 0.0, "AutoAttack": 0.0}
    gradients = 0
    images = [
        (classifier.prepare(photo.pixels), photo.true_class)
        for photo in pool_photos(f"folder:{arguments.photos}")
        if photo.true_class is not None
    ]
    right = [(pixels, label) for pixels, label in images if int(classifier.logits(pixels[None]).argmax()) == label]
    for seed, (pixels, label) in enumerate(right[: arguments.parity]):
        began = time.process_time()
        ours = run_autoattack(classifier, pixels, label, level=arguments.level, seed=seed, attacks=QUICK)
        seconds["early stop"] += time.process_time() - began
        gradients += ours.backwards
        suite = AutoAttack(
            classifier.module,
            norm="Linf",
            eps=arguments.level / 255,
            seed=seed,
            attacks=list(QUICK),
            version="custom",
        )
        suite.apgd.n_restarts, suite.apgd_targeted.n_target_classes = 1, 9
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float().div(255).contiguous()
        began = time.process_time()
        _, labels = suite.run_standard_evaluation(image, torch.tensor([label]), batch_size=1)
        seconds["AutoAttack"] += time.process_time() - began
        theirs = int(labels[0]) != label
        agree += theirs == (ours.float_by is not None)
        fell += theirs
    count = min(arguments.parity, len(right))
    return {
        "subject": arguments.subject,
        "images": count,
        "level": arguments.level,
        "agree": agree,
        "fell": fell,
        "cpu_s_per_image": {name: round(value / count, 2) for name, value in seconds.items()},
        "ratio": round(seconds["AutoAttack"] / seconds["early stop"], 1),
        "gradients_per_image": round(gradients / count, 1),
    }


if __name__ == "__main__":
    main()
