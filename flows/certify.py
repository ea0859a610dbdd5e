"""The `certify` flow: networks under contract are certified again every week, and when their weights change."""

from pathlib import Path

from prefect import flow, task

from perturb.certificates.contract import Certified, certify_when_due
from perturb.certificates.planning import PlanRequest
from perturb.flows.engine.artifacts import show_table
from perturb.schemas.settings import load_settings


@task(name="certify subject")
def _certify(store: str | None, request: PlanRequest, folder: str, every_days: int, workers: int) -> Certified:
    found = certify_when_due(
        load_settings(store=store), request, folder=Path(folder), every_days=every_days, workers=workers
    )
    show_table(f"certificate-{found.subject_sha256[:12]}", found.rows(), f"{request.subject}: {found.reason}")
    return found


@flow(name="certify")
def certify(
    subject: str = "tf_efficientnet_lite0",
    pool: str = "sample",
    n: int = 30,
    levels: list[int] | None = None,
    suite: str = "quick",
    claims: list[str] | None = None,
    beacon: str = "none",
    folder: str = "certificates",
    every_days: int = 7,
    workers: int = 2,
    store: str | None = None,
) -> bool:
    """Certify `subject` on `pool`, unless its weights have a certificate of the last `every_days`.

    Returns whether a certificate was made. Its figures are an artifact, the certificate itself is in `folder` and in
    the store.
    """
    request = PlanRequest(
        subject=subject,
        pool=pool,
        n=n,
        levels=tuple(levels or (1, 2, 4, 8)),
        suite=suite,
        claims=tuple(claims or ()),
        beacon=beacon,
    )
    return _certify(store, request, folder, every_days, workers).summary is not None
