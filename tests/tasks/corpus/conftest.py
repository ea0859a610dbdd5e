"""A validator's keypair, and small corpora that audit clean."""

from pathlib import Path

import pytest

from perturb.schemas.signature import Signer
from tests.support.small_corpora import make_clean_corpora


@pytest.fixture(scope="session")
def keypair() -> Signer:
    from bittensor.keyfiles import Keypair

    made: Signer = Keypair.create_from_uri("//PerturbValidator")
    return made


@pytest.fixture(scope="session")
def clean_corpora(tmp_path_factory: pytest.TempPathFactory, keypair: Signer) -> Path:
    """Read-only: `rounds` and `sealed`; tests that tamper copy one first."""
    return make_clean_corpora(tmp_path_factory.mktemp("clean"), keypair)
