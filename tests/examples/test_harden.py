"""`examples/harden.py`: one small run on an export of real photographs, with the real network."""

import importlib.util
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest

from perturb.models.classifier import load_classifier
from perturb.schemas.report_card import ReportCard
from perturb.schemas.settings import load_settings
from perturb.schemas.tier import Tier
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from perturb.tasks.export.export import export
from tests.support.attacked_corpus import seal_attacked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """The real network on smaller pictures, which it reads as well and in a fifth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERTURB_CLASSIFIER__INPUT_SIZE", "96")
        yield


@pytest.fixture(scope="module")
def harden() -> ModuleType:
    spec = importlib.util.spec_from_file_location("harden", Path(__file__).parents[2] / "examples" / "harden.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["harden"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight photographs, each perturbed by two miners, as an export."""
    corpus = Corpus(open_store(str(tmp_path_factory.mktemp("harden"))))
    seal_attacked(corpus, load_classifier(load_settings().classifier), count=8, miners=2)
    tier = Tier(name="t", description="d", columns=("true_label",), license="l")
    return export(corpus, tier, today=date(2027, 1, 1)).path + "/parquet"


def test_a_small_run_measures_both_arms_on_photographs_held_out(
    harden: ModuleType, exported: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = harden.load_photographs(exported)
    assert (len(photographs), sum(len(one.versions) for one in photographs)) == (8, 16)
    card = harden.main([exported, "--epochs", "2", "--stages", "1", "--attacked", "1"])
    assert card.clean.accuracy.n == 3
    assert card.shared_photographs == 0
    assert card.old_flips["export"].value <= 1
    assert card.control_flips["export"].n == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert ReportCard.model_validate_json(last) == card
