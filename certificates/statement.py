"""The statement of a certificate: an in-toto Statement v1 whose predicate extends the eval-result draft.

`derive` makes it from the plan, the rows of pool and results, and what was observed once (`Observed`). A verifier
derives it again and compares bytes. Its predicate has the fields of in-toto/attestation pull request 575 (evaluator,
suite, claims, sampleSize, model, dataset, preRegistration, assuranceLevel, evidence, harness) and a block `robustness`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from perturb.certificates.beacon import Pulse
from perturb.certificates.checklist import checklist
from perturb.certificates.figures import Figures
from perturb.certificates.flags import MEANING, raised_flags
from perturb.certificates.narrative import narrative
from perturb.certificates.plan import Plan, moment, timestamp
from perturb.certificates.severity import severity_block
from perturb.certificates.tables import Row, tree_root
from perturb.schemas.canonical_json import canonical_json

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:perturb:robustness-certificate:v1"

DOES_NOT_SAY = (
    "It is no guarantee: robustness here means that this much search did not break an image.",
    "It says nothing about other norms, larger changes, patches, physical attacks, poisoning or privacy.",
    "The pool is not the deployment: other photographs may behave otherwise.",
    "No attack was adapted to this network (Tramèr et al. 2020, arXiv:2002.08347).",
    "It is no conformity assessment, gives no CE marking and no presumption of conformity.",
)
SCORES_ONLY = "It was attacked by scores only: no gradient was available, so stronger attacks were not run."
CHOSEN = "The sample was chosen by the evaluator: no public randomness fixed it after the plan."


class Observed(BaseModel):
    """What was observed once and can't be derived again: times, flags' measurements, the canary, the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    evaluatedAt: str
    durationSeconds: int = Field(ge=0)
    pulse: dict[str, Any] | None
    probes: dict[str, int]
    canary: tuple[int, int]
    environment: dict[str, str]
    judge: dict[str, Any]
    classNames: dict[str, str]
    harnessVersion: str
    log: dict[str, Any] | None = None


def digest_of(data: bytes) -> str:
    """Return the sha256 of a file, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def derive(
    plan: Plan, pool: Sequence[Row], results: Sequence[Row], observed: Observed, digests: Mapping[str, str]
) -> dict[str, Any]:
    """Return the statement. `digests` are those of the evidence's files, by name."""
    clusters_of = {row["identity"]: row["cluster"] for row in pool}
    sampled = {row["identity"] for row in results if row["status"] != "not_run"}
    names = [observed.classNames.get(str(index), f"class {index}") for index in range(plan.subject.num_classes)]
    clusters = len({clusters_of[identity] for identity in sampled if identity in clusters_of})
    figures = Figures(plan, results, clusters=clusters, names=names)
    flags = raised_flags(observed.probes, results, canary=observed.canary, attacks=plan.suite.attacks)
    predicate = {
        "evaluator": {"id": f"urn:ss58:{plan.signer}"},
        "evaluatedAt": observed.evaluatedAt,
        "suite": {"name": f"perturb-certify-{plan.suite.name}", "version": str(plan.format)},
        "claims": figures.claims(flags, observed.canary),
        "sampleSize": figures.measured,
        "model": {"name": plan.subject.name, "digest": {"sha256": plan.subject.sha256}},
        "dataset": {"name": "pool.parquet", "digest": {"sha256": digests["pool.parquet"]}},
        "assuranceLevel": "self_attested",
        "subjectProfile": "public-model",
        "preRegistration": {"alg": "sha256", "value": plan.sha256},
        "evidence": [
            {"name": name, "digest": {"sha256": digests[name]}} for name in ("evidence.tar", "results.parquet")
        ],
        "harness": {"name": "perturb", "version": observed.harnessVersion},
        "validity": _validity(plan, observed),
        "robustness": _robustness(plan, figures, flags, results, observed),
    }
    statement: dict[str, Any] = {
        "_type": STATEMENT,
        "predicateType": PREDICATE,
        "subject": [{"name": plan.subject.name, "digest": {"sha256": plan.subject.sha256}}],
        "predicate": predicate,
    }
    sentences = narrative(statement)
    predicate["robustness"]["narrativeSha256"] = digest_of(canonical_json(sentences))
    return statement


def harness_version() -> str:
    """Return the version of this program."""
    return version("perturb")


def _validity(plan: Plan, observed: Observed) -> dict[str, str]:
    start = moment(observed.evaluatedAt)
    return {"from": observed.evaluatedAt, "until": timestamp(start + timedelta(days=plan.valid_days))}


def _robustness(
    plan: Plan, figures: Figures, flags: Sequence[str], results: Sequence[Row], observed: Observed
) -> dict[str, Any]:
    access = plan.subject.access
    doubts = [*([CHOSEN] if plan.beacon.kind == "none" else []), *([SCORES_ONLY] if access == "scores" else [])]
    return {
        "plan": plan.model_dump(mode="json", by_alias=True),
        "threatModel": {
            "goal": "another label than the true one",
            "knowledge": "white box: weights and gradients" if access == "gradients" else "black box: scores",
            "capability": "changes of single images at the network's own input, after resizing",
            "norm": "L-inf on 8-bit images",
            "levels": list(plan.levels),
            "atlas": ["AML.T0015", "AML.T0043.000" if access == "gradients" else "AML.T0043.001"],
            "adaptive": False,
        },
        "labels": _labels(plan),
        "cleanAccuracy": figures.clean(),
        "levels": figures.levels(),
        "curveBand": figures.band(),
        "confidence": {
            "alpha": plan.alpha,
            "eachAlpha": decimal_alpha(figures.each_alpha),
            "method": "beta-mixture confidence sequence" if figures.stopped_early else "Clopper-Pearson, Bonferroni",
        },
        "byAttack": figures.by_attack(),
        "byClass": figures.by_class(),
        "clusters": figures.clusters,
        "flags": [{"name": name, "meaning": MEANING[name]} for name in flags],
        "canary": {"found": observed.canary[0], "of": observed.canary[1]},
        "checklist": checklist(plan, figures, flags, observed.canary),
        "passes": figures.passes(),
        "severity": severity_block(
            figures.broken_once(), observed.judge, figures.names, plan.harm, alpha=float(plan.alpha)
        ),
        "gridAgainstAutoAttack": figures.compared("grid", "autoattack") if plan.suite.grid else None,
        "crowdAgainstAutoAttack": figures.compared("crowd", "autoattack") if plan.suite.crowd else None,
        "selection": {
            "rule": plan.seed_rule,
            "beacon": observed.pulse,
            "chosenBy": "public randomness" if plan.beacon.kind != "none" else "the evaluator",
        },
        "doesNotSay": [*doubts, *DOES_NOT_SAY],
        "resultsRoot": tree_root(results),
        "observed": observed.model_dump(mode="json"),
    }


def _labels(plan: Plan) -> str:
    """Whose the labels are; where the network's own are among them, its clean accuracy is no measurement."""
    return next((kind for kind in ("model-confirmed", "other-confirmed") if kind in plan.pool.labels), "source")


def decimal_alpha(value: float) -> str:
    """Return a significance level as a decimal string."""
    from perturb.certificates.statistics import decimal

    return decimal(value, 6)


def pulse_of(observed: Observed) -> Pulse | None:
    """Return the beacon's round of a statement, None of one without. Raises ValueError for another form."""
    return None if observed.pulse is None else Pulse.model_validate(observed.pulse)
