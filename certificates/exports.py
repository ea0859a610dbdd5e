"""The statement in other forms: CycloneDX 1.6, and the eval-result draft of in-toto, v0.2."""

import uuid
from typing import Any

from perturb.certificates.envelope import STATEMENT_TYPE, companion_id, preauthentication, with_signatures
from perturb.certificates.narrative import claim_text
from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import SettingsError
from perturb.subnet.keys import Keypair

EVAL_RESULT = "https://b7n0de.com/attestation/eval-result/v0.2"
_NAMESPACE = uuid.UUID("6f0c1f2e-6d0b-5d3c-9a4b-0d1f2c3b4a59")


def cyclonedx(statement: dict[str, Any]) -> dict[str, Any]:
    """Return a CycloneDX 1.6 BOM: the model with its performance metrics, and the claims with their evidence."""
    predicate = statement["predicate"]
    block = predicate["robustness"]
    model = predicate["model"]
    serial = uuid.uuid5(_NAMESPACE, canonical_json(statement).decode())
    metrics = [_metric("accuracy", "unchanged images", block["cleanAccuracy"])]
    metrics += [_metric("robust accuracy", f"L-inf {level['epsilon']}", level["robust"]) for level in block["levels"]]
    claims = [
        {
            "bom-ref": f"claim-{number}",
            "target": "model",
            "predicate": f"{claim_text(claim)}: {claim['verdict'].replace('_', ' ')}",
            "reasoning": "; ".join(claim["reasons"]) or "it follows from the limits",
            "evidence": ["certificate"],
        }
        for number, claim in enumerate(predicate["claims"])
    ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": predicate["evaluatedAt"],
            "tools": {
                "components": [{"type": "application", "name": "perturb", "version": predicate["harness"]["version"]}]
            },
        },
        "components": [
            {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "name": model["name"],
                "hashes": [{"alg": "SHA-256", "content": model["digest"]["sha256"]}],
                "modelCard": {
                    "quantitativeAnalysis": {"performanceMetrics": metrics},
                    "considerations": {"technicalLimitations": block["doesNotSay"]},
                },
            }
        ],
        "declarations": {
            "claims": claims,
            "evidence": [
                {
                    "bom-ref": "certificate",
                    "propertyName": "perturb:robustness-certificate",
                    "description": f"results root {block['resultsRoot']}, plan {predicate['preRegistration']['value']}",
                    "created": predicate["evaluatedAt"],
                    "expires": predicate["validity"]["until"],
                }
            ],
        },
    }


def _metric(kind: str, part: str, rate: dict[str, Any]) -> dict[str, Any]:
    metric: dict[str, Any] = {"type": kind, "slice": part, "value": rate["share"] or "0"}
    if rate["limits"]:
        metric["confidenceInterval"] = {
            "lowerBound": rate["limits"]["lower"],
            "upperBound": rate["limits"]["upper"],
        }
    return metric


def eval_result(statement: dict[str, Any], companion: Keypair) -> bytes:
    """Return an envelope of the eval-result draft, signed by the ed25519 companion.

    Raises SettingsError for a plan without claims, which the draft requires, and for another companion than the plan's.
    """
    predicate = statement["predicate"]
    if not predicate["claims"]:
        raise SettingsError("the eval-result draft needs a claim, and the plan made none; plan with --claim")
    if companion.public_key.hex() != predicate["robustness"]["plan"]["companion"]:
        raise SettingsError("only the certificate's signer can export it as eval-result: the export is signed anew")
    exported = {**statement, "predicateType": EVAL_RESULT, "contentRootAlg": "jcs-sha256-v1"}
    body = canonical_json(exported)
    message = preauthentication(STATEMENT_TYPE, body)
    import base64

    signature = base64.b64encode(companion.sign(message)).decode()
    return with_signatures(
        STATEMENT_TYPE, body, [{"keyid": companion_id(companion.public_key.hex()), "sig": signature}]
    )
