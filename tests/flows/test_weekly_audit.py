"""The weekly audit demands our own signatures, and its run fails where somebody else wrote the corpus."""

from pathlib import Path

import pytest

from tests.support.forgeries import OURS, honest, laundered, rewritten, stripped


@pytest.mark.slow
def test_the_weekly_audit_fails_on_forged_corpora(
    prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perturb.flows.audit import audit

    monkeypatch.setenv("PERTURB_SUBNET__HOTKEY_URI", "//PerturbValidator")
    monkeypatch.setenv("PERTURB_CACHE_DIR", str(tmp_path / "cache"))
    states = {
        forge.__name__: audit(store=forge(tmp_path / forge.__name__).store.url, deep=False, return_state=True)
        for forge in (honest, stripped, rewritten, laundered)
    }
    assert {name: state.is_failed() for name, state in states.items()} == {
        "honest": False,
        "stripped": True,
        "rewritten": True,
        "laundered": True,
    }
    for name in ("stripped", "rewritten", "laundered"):
        assert "AuditFailed" in str(states[name].message), name
        assert f"not by {OURS.ss58_address}" in str(states[name].message), name
    # What the first run audited is not read again, unless the whole corpus is asked for.
    days = [audit(store=str(tmp_path / "honest"), deep=False, whole=whole).days for whole in (False, True)]
    assert days == [0, 1]
    # Whose signatures count can be said for one run: a list in the deployment's parameters.
    monkeypatch.setenv("PERTURB_SUBNET__HOTKEY_URI", "//Alice")
    assert audit(
        store=str(tmp_path / "honest"), deep=False, hotkeys=[OURS.ss58_address], return_state=True
    ).is_completed()
