"""The whole line as a person runs it: one command, real models, real photographs, miners in their own processes."""

import json
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from tests.support.commands import perturb

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROUNDS = 3


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    home = tmp_path_factory.mktemp("demo")
    ran = perturb("demo", "--rounds", str(ROUNDS), "--json", cwd=home)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return home, json.loads(ran.stdout.splitlines()[-1])


def test_rounds_are_verified_and_the_bad_miner_is_refused_by_name(demo: tuple[Path, dict]) -> None:
    _, summary = demo
    produced = summary["produced"]
    assert produced["rounds"] == produced["challenges"] == ROUNDS
    assert produced["responses"] == 5 * ROUNDS
    assert produced["accepted"] + sum(produced["refused"].values()) == produced["responses"]
    # Photographs are drawn at random, and attacks end by the clock: not every honest miner flips every one of them.
    assert produced["accepted"] >= 0.5 * 4 * ROUNDS
    assert sum(produced["refused"].values()) >= ROUNDS
    assert summary["audited_records"] == summary["sealed"]["records"] == produced["responses"]


def test_subscribers_load_what_was_exported(demo: tuple[Path, dict]) -> None:
    home, summary = demo
    (research,) = (export for export in summary["exports"] if export["tier"] == "research")
    rows = load_dataset(str(home / research["path"] / "parquet"), split=None)
    pairs = [row for split in rows.values() for row in split]
    assert len(pairs) == research["records"] > 0
    for row in pairs:
        original, perturbed = (np.asarray(row[name]).astype(int) for name in ("original", "perturbed"))
        assert np.abs(original - perturbed).max() == row["linf_levels"]
        assert row["true_label"] != row["adversarial_label"]
        assert row["classifier"] == "tf_efficientnet_lite0"
        assert row["judge"] == "gemma-3-270m"


def test_the_picture_is_a_contact_sheet(demo: tuple[Path, dict]) -> None:
    home, summary = demo
    with Image.open(home / summary["picture"]) as sheet:
        assert sheet.width == 3 * 224 + 4 * 8
        assert np.asarray(sheet.convert("L")).std() > 20


def test_both_networks_are_certified_on_the_same_images_and_compared(demo: tuple[Path, dict]) -> None:
    home, summary = demo
    made = summary["certified"]
    page = (home / made["page"]).read_text()
    assert "independent photographs" in page
    for file in (made["certificate"], made["hardened"]):
        assert (home / "data" / "certificates" / Path(file).parent.name / "certificate.dsse.json").is_file()
    found = made["comparison"]
    assert (found["first"], found["second"]) == ("tf_efficientnet_lite0", "lite0-g1")
    assert (found["secondSha256"], found["images"]) == (summary["hardened"]["sha256"], ROUNDS)
    assert "Beside lite0-g1" in page
    verified = perturb("certificate", "verify", made["hardened"], "--log", "data", "--json", cwd=home)
    said = json.loads(verified.stdout.splitlines()[-1])
    outcomes = {level["name"]: level["outcome"] for level in said["levels"]}
    assert outcomes == {**dict.fromkeys(("L1", "L2", "L3", "L4", "L5", "L7"), "holds"), "L6": "skipped"}
    assert said["status"].startswith("valid")


def test_a_challenger_is_measured_and_judged(demo: tuple[Path, dict]) -> None:
    home, summary = demo
    made = summary["hardened"]
    assert (made["target"], made["parent"]) == ("lite0-g1", "lite0-g0")
    assert made["trained_photographs"] + made["report"]["photographs"] < ROUNDS
    assert made["report"]["verdict"]["gates"] == "gate-1"
    assert (home / "data" / "targets" / "lite0-g1" / "reports" / "0000.json").is_file()


def test_a_miner_gets_the_validators_own_verdict(demo: tuple[Path, dict]) -> None:
    home, _ = demo
    from perturb.sinks.corpus.corpus import Corpus
    from perturb.sinks.stores.open import open_store

    corpus = Corpus(open_store(str(home / "data")))
    row = next(row for row in corpus.table().to_pylist() if row["outcome"] == "accepted")
    for image in ("original", "perturbed"):
        (png,) = corpus.read_images(row[f"{image}_shard"], [(row[f"{image}_offset"], row[f"{image}_length"])])
        (home / f"{image}.png").write_bytes(png)
    label = str(row["true_label"])
    ran = perturb(
        "score",
        "original.png",
        "perturbed.png",
        "--label",
        label,
        "--response-ms",
        str(row["response_ms"]),
        "--json",
        cwd=home,
    )
    said = json.loads(ran.stdout.splitlines()[-1])
    for name in ("outcome", "linf_levels", "l0", "ssim", "psnr", "adversarial_label", "margin", "persists"):
        assert said["verdict"][name] == row[name], name
    assert said["score"]["score"] == row["score"]
    ran = perturb("score", "original.png", "original.png", "--json", cwd=home)
    assert json.loads(ran.stdout.splitlines()[-1])["verdict"]["outcome"] == "unchanged"


def test_running_it_again_grows_the_corpus_and_audits_clean(demo: tuple[Path, dict]) -> None:
    home, first = demo
    ran = perturb("demo", "--rounds", "1", "--json", cwd=home)
    assert ran.returncode == 0, ran.stderr[-3000:]
    second = json.loads(ran.stdout.splitlines()[-1])
    assert second["sealed"]["day"] > first["sealed"]["day"]
    assert second["audited_records"] == first["audited_records"] + 5
    ran = perturb("audit", "data", "--json", cwd=home)
    assert ran.returncode == 0
    report = json.loads(ran.stdout.splitlines()[-1])
    assert (report["records"], report["faults"]) == (second["audited_records"], [])


def test_a_tier_file_without_the_demos_tiers_is_refused_before_anything_is_produced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perturb.flows.demo import run_demo
    from perturb.flows.engine.prefect_server import ServerStart
    from perturb.schemas.errors import TierError

    shipped = Path("tiers.toml").read_text()
    monkeypatch.chdir(tmp_path)
    Path("tiers.toml").write_text(shipped.replace("[tiers.sample]", "[tiers.example]"))
    unused = ServerStart("http://127.0.0.1:9/api", Future(), password=None)
    with pytest.raises(TierError, match="'sample' is not in the tier file"):
        run_demo(unused, rounds=1, store=None, source=None, picture=Path("sheet.png"), tell=print)
    assert not Path("data").exists()
