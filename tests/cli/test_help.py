"""The command line teaches, answers at once, and speaks one sentence when something is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from tests.support.commands import perturb
from tests.support.small_corpora import commit, small

HEAVY = {
    "torch",
    "transformers",
    "timm",
    "datasets",
    "prefect",
    "bittensor",
    "boto3",
    "pyarrow",
    "duckdb",
    "matplotlib",
}


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, perturb.cli; print(' '.join(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(modules)


def test_help_names_every_command_in_its_panel(tmp_path: Path) -> None:
    shown = perturb("--help", cwd=tmp_path)
    assert shown.returncode == 0
    panels = dict.fromkeys(
        ("Options", "Produce", "Corpus", "Deliver", "Certify", "Operate", "Mine", "Harden", "Show"), ""
    )
    for line in shown.stdout.splitlines():
        if line.startswith("╭─ "):
            panel = line.split()[1]
        elif line.startswith("│ ") and line[2] not in " -":
            panels[panel] += f"{line.split()[1]} "
    assert panels == {
        "Options": "",
        "Produce": "demo produce ",
        "Corpus": "seal gc show ",
        "Deliver": "export share publish tiers ",
        "Certify": "audit prove log certify certificate ",
        "Operate": "init doctor status cost weights judge serve ",
        "Mine": "miner score bench model ",
        "Harden": "harden evaluate targets ",
        "Show": "play ",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "environment", "code", "sentence"),
    [
        (("doctor",), {"PERTURB_PROFILE": "x"}, 2, "profile = 'x': Input should be 'embedded' or 'mainnet'"),
        (("audit", "nowhere"), {}, 7, "nowhere holds no corpus"),
        (("show", "nowhere"), {}, 7, "nowhere holds no corpus"),
        (("score", "missing.png", "missing.png"), {}, 2, "missing.png"),
        (("serve",), {}, 2, "run this in a folder that `perturb init` wrote"),
        (("export", "--tier", "sample"), {"PERTURB_TIERS": "tiers.toml"}, 9, "there is no tier file"),
        (("tiers", "check"), {"PERTURB_TIERS": "tiers.toml"}, 9, "there is no tier file"),
        (("export", "--tier", "gold"), {}, 9, "tier 'gold' is not in the tier file, which has sample, research"),
        (("weights", "--dry-run"), {}, 2, "subnet.roster is not set"),
        (("seal", "--day", "2026-01-31"), {}, 7, "there are no rounds to seal"),
        (("prove", "0" * 64), {}, 7, "holds no corpus"),
    ],
)
def test_a_mistake_ends_in_one_sentence(
    arguments: tuple[str, ...], environment: dict[str, str], code: int, sentence: str, tmp_path: Path
) -> None:
    ran = perturb(*arguments, cwd=tmp_path, **environment)
    assert sentence in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.returncode == code


@pytest.mark.slow
def test_doctor_checks_every_part_and_masks_secrets(tmp_path: Path) -> None:
    secret = "pexels-secret-key"
    ran = perturb("doctor", "--json", cwd=tmp_path, PERTURB_PEXELS__API_KEY=secret)
    assert ran.returncode == 0, ran
    found = json.loads(ran.stdout.splitlines()[-1])
    parts = {"store", "source", "decoder", "classifier", "targets", "judge", "identity", "neurons", "tiers", "prefect"}
    assert set(found) == parts
    assert all(part["ready"] for part in found.values()), found
    assert secret not in ran.stdout + ran.stderr


def test_a_command_that_queries_the_corpus_ends_without_a_word_on_stderr(tmp_path: Path) -> None:
    """DuckDB's bindings complain when the interpreter ends without collecting what they made."""
    commit(Corpus(open_store(str(tmp_path / "data"))), small(1))
    shown = perturb("status", cwd=tmp_path)
    assert "today" in shown.stdout
    assert shown.stderr == ""
