"""Programs of others accept what we write: signatures, statement, eval-result draft, CycloneDX, the JSON schema."""

import base64
import json
from importlib.resources import files
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from jsonschema import Draft202012Validator
from proofbundle.intoto import EVAL_RESULT_V02_PREDICATE_TYPE, verify_eval_result_dsse
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Key, SSlibKey

from perturb.certificates.aging import countersign, open_certificate
from perturb.certificates.exports import cyclonedx, eval_result
from perturb.certificates.verify import trusts
from perturb.schemas.errors import SettingsError
from perturb.subnet.keys import companion_keypair, load_keypair
from tests.certificates.conftest import Made
from tests.support.certificates import certificate_settings


class HotkeyKey(Key):
    """What a user of securesystemslib writes to check hotkeys."""

    def verify_signature(self, signature: Any, data: bytes) -> None:
        from bittensor.sp_core import verify
        from securesystemslib.exceptions import UnverifiedSignatureError

        if not verify(data, bytes.fromhex(signature.signature), self.keyval["public"], 1):
            raise UnverifiedSignatureError("the hotkey did not sign this")

    @classmethod
    def from_dict(cls, keyid: str, key_dict: dict[str, Any]) -> "HotkeyKey":
        return cls(keyid, key_dict["keytype"], key_dict["scheme"], key_dict["keyval"])

    def to_dict(self) -> dict[str, Any]:
        return self._to_dict()


def test_securesystemslib_checks_both_signatures(made: Made) -> None:
    _, plan, _ = open_certificate(made.file)
    envelope = Envelope.from_dict(json.loads(made.file.read_bytes()))
    hotkey = HotkeyKey(f"sr25519:{plan.signer}", "sr25519", "sr25519", {"public": plan.signer})
    companion = SSlibKey(f"ed25519:{plan.companion}", "ed25519", "ed25519", {"public": plan.companion})
    assert len(envelope.verify([hotkey, companion], 2)) == 2
    envelope.payload += b" "
    with pytest.raises(Exception, match="signatures"):
        envelope.verify([hotkey, companion], 2)


def test_in_toto_attestation_parses_the_statement(made: Made) -> None:
    payload = base64.b64decode(json.loads(made.file.read_bytes())["payload"])
    parsed = Statement.copy_from_pb(json_format.Parse(payload, statement_pb2.Statement()))
    parsed.validate()
    assert parsed.pb.predicate["sampleSize"] == 8


def test_proofbundle_accepts_the_eval_result_export(made: Made) -> None:
    statement, plan, _ = open_certificate(made.file)
    companion = companion_keypair(made.settings.subnet, plan.signer)
    exported = json.loads(eval_result(statement, companion))
    found = verify_eval_result_dsse(
        exported, bytes.fromhex(plan.companion), expected_predicate_type=EVAL_RESULT_V02_PREDICATE_TYPE
    )
    assert found["ok"], found
    exported["payload"] = base64.b64encode(
        base64.b64decode(exported["payload"]).replace(b'"sampleSize":8', b'"sampleSize":9')
    ).decode()
    found = verify_eval_result_dsse(
        exported, bytes.fromhex(plan.companion), expected_predicate_type=EVAL_RESULT_V02_PREDICATE_TYPE
    )
    assert not found["ok"]
    claimless = {**statement, "predicate": {**statement["predicate"], "claims": []}}
    with pytest.raises(SettingsError, match="plan with --claim"):
        eval_result(claimless, companion)


def test_cyclonedx_validates_against_its_schema(made: Made) -> None:
    from referencing import Registry, Resource

    folder = files("cyclonedx.schema") / "_res"
    schemas = {
        name: json.loads((folder / name).read_text())
        for name in ("bom-1.6.SNAPSHOT.schema.json", "spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json")
    }
    registry: Any = Registry().with_resources(
        [(schema["$id"], Resource.from_contents(schema)) for schema in schemas.values()]
    )
    statement, _, _ = open_certificate(made.file)
    bom = cyclonedx(statement)
    from jsonschema import Draft7Validator

    validator = Draft7Validator(schemas["bom-1.6.SNAPSHOT.schema.json"], registry=registry)
    assert list(validator.iter_errors(bom)) == []
    bom["components"][0]["type"] = "certificate"
    assert list(validator.iter_errors(bom))


def test_the_statement_follows_its_own_schema(made: Made) -> None:
    schema = json.loads((files("perturb.certificates") / "statement.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    statement, _, _ = open_certificate(made.file)
    assert [error.json_path for error in validator.iter_errors(statement)] == []
    statement["predicate"]["robustness"]["levels"][0]["broken"] = 0.5
    assert [error.json_path for error in validator.iter_errors(statement)] == [
        "$.predicate.robustness.levels[0].broken"
    ]


def test_a_countersignature_counts_and_a_second_one_of_the_same_key_does_not(made: Made, tmp_path: Any) -> None:
    auditor = load_keypair(certificate_settings(tmp_path).subnet)
    original = made.file.read_bytes()
    try:
        made.file.write_bytes(countersign(made.file, auditor))
        assert made.verified().holds
        assert f"sr25519:{auditor.ss58_address}".encode() in made.file.read_bytes()
        with pytest.raises(SettingsError, match="already"):
            countersign(made.file, auditor)
    finally:
        made.file.write_bytes(original)
    assert trusts([]).hotkeys is None
