"""The snippets of the documents run, on a small corpus and its exports."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import datasets
import numpy as np
import pytest

from perturb.schemas.bounds import LEVELS
from perturb.schemas.settings import load_settings
from perturb.sinks.stores.open import open_store
from perturb.tasks.export.export import export
from perturb.tasks.export.share import share
from perturb.tasks.model_track.check import check_weights
from perturb.tasks.tiers.tier_file import load_tiers
from tests.support.corpora import make_corpus, plain_draw

ROOT = Path(__file__).parents[2]


def snippets(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory as the README leaves it: `data` holds a corpus and the exports of two tiers."""
    folder = tmp_path_factory.mktemp("reader")
    made = make_corpus(open_store(str(folder / "data")), days=[date(2026, 1, 1)], rounds=30, miners=4)
    for name in ("sample", "research"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("perturb.tasks.export.publish_card.draw_plots", plain_draw)
            export(made.corpus, load_tiers(ROOT / "tiers.toml")[name], today=date(2027, 1, 1))
    return folder


@pytest.fixture(autouse=True)
def as_a_reader(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.mark.parametrize("document", ["README.md", "docs/corpus.md"])
def test_python_that_reads_data_runs(document: str) -> None:
    blocks = snippets(document, "python")
    assert blocks
    for block in blocks:
        exec(compile(block, document, "exec"), {})


def test_the_file_of_the_model_track_is_one_that_miners_can_commit_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = snippets("docs/targets.md", "python")
    exec(compile(block, "docs/targets.md", "exec"), {})
    assert check_weights(load_settings(), Path("weights.safetensors").read_bytes()) is None


def test_the_attack_of_the_mining_page_is_one() -> None:
    (block,) = snippets("docs/mining.md", "python")
    module: dict[str, object] = {}
    exec(compile(block, "docs/mining.md", "exec"), module)
    pixels = np.full((8, 6, 3), 100, np.uint8)
    attack = module["attack"]
    assert callable(attack)
    answer = attack(None, pixels, 0, None, deadline=0.0, seed=1)
    assert answer.shape == pixels.shape
    assert answer.dtype == np.uint8
    assert 0 < np.abs(answer.astype(int) - pixels).max() < LEVELS


def test_downloads_from_a_list_of_links_are_checked(folder: Path, tmp_path: Path) -> None:
    """The shell lines of "Checking what you got", with the links of a directory store."""
    lines = (ROOT / "docs/subscribing.md").read_text().partition("### Checking what you got")[2].partition("```\n")[2]
    commands = [line for line in lines.partition("```")[0].splitlines() if not line.startswith("aria2c")]
    assert [command.split()[0] for command in commands] == ["curl", "sha256sum"]
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    links = share(open_store(str(folder / "data")), "research")
    (tmp_path / "research.links.curl").write_text(links.curl())
    (tmp_path / "research.links.sha256").write_text(links.checksums())
    script = ["set -e", *commands]
    done = subprocess.run(["bash", "-c", "\n".join(script)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == len(links.files)
