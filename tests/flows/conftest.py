"""One Prefect server for the flow tests, and production on cheap parts: a real classifier, no language model."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.corpora import VALIDATOR


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    import perturb.flows  # noqa: F401  (its environment must stand before Prefect is imported)

    with (
        prefect_test_harness(server_startup_timeout=180),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


@pytest.fixture
def cheap_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Settings in the environment; returns the store's directory."""
    store = tmp_path / "store"
    for name, value in {
        "STORE": str(store),
        "CACHE_DIR": str(tmp_path / "cache"),
        "JUDGE__NAME": "none",
        "CLASSIFIER__PERSISTENCE": "false",
        "SUBNET__HOTKEY_URI": "//a-secret-development-key",
        "SUBNET__TRUSTED_VALIDATORS": json.dumps([VALIDATOR.ss58_address]),
        "PEXELS__API_KEY": "pexels-secret",
    }.items():
        monkeypatch.setenv(f"PERTURB_{name}", value)
    return store
