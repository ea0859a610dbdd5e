"""What happens to a certificate after it was signed: countersignatures, revocation, refutation by a record."""

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perturb.certificates.autoattack import breaks
from perturb.certificates.entries import enter
from perturb.certificates.envelope import (
    STATEMENT_TYPE,
    hotkey_id,
    open_envelope,
    parsed_body,
    preauthentication,
    signature_faults,
    with_signatures,
)
from perturb.certificates.folder import CertificateFolder
from perturb.certificates.plan import Plan, parse_plan, timestamp
from perturb.certificates.statement import digest_of
from perturb.certificates.subject import Subject
from perturb.certificates.tables import RESULTS, read_table
from perturb.models.metrics import distances
from perturb.sandbox.stored import pair_pixels
from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import AuditError, CorpusError, SettingsError
from perturb.schemas.settings import Settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.log.entry import LogRecord
from perturb.subnet.keys import Keypair, load_keypair


def open_certificate(file: Path) -> tuple[dict[str, Any], Plan, str]:
    """Return statement, plan and the statement's sha256 of a certificate whose signatures hold. Raises AuditError."""
    envelope = open_envelope(CertificateFolder(file.parent).read(file.name), STATEMENT_TYPE, file.name)
    statement = parsed_body(envelope, file.name)
    try:
        value = statement["predicate"]["robustness"]["plan"]
    except (KeyError, TypeError) as error:
        raise AuditError(f"{file} is no robustness certificate") from error
    plan = parse_plan(value, file.name)
    if faults := signature_faults(envelope, hotkey=plan.signer, companion=plan.companion):
        raise AuditError(f"{file}: {'; '.join(faults)}")
    return statement, plan, digest_of(envelope.body)


def countersign(file: Path, hotkey: Keypair) -> bytes:
    """Return the certificate with the signature of one more hotkey, an evaluator's or an auditor's, beside the others.

    Raises AuditError where its signatures don't hold, SettingsError where this hotkey signed it already.
    """
    open_certificate(file)
    envelope = open_envelope(CertificateFolder(file.parent).read(file.name), STATEMENT_TYPE, file.name)
    key = hotkey_id(hotkey.ss58_address)
    if key in envelope.signatures:
        raise SettingsError(f"{file} is signed by {hotkey.ss58_address} already")
    signature = hotkey.sign(preauthentication(STATEMENT_TYPE, envelope.body)).hex()
    return with_signatures(
        STATEMENT_TYPE,
        envelope.body,
        [
            {"keyid": name, "sig": base64.b64encode(bytes.fromhex(value)).decode()}
            for name, value in {**envelope.signatures, key: signature}.items()
        ],
    )


def revoke(settings: Settings, file: Path, reason: str) -> LogRecord:
    """Enter in the log that a certificate no longer counts. Raises SettingsError unless the own hotkey signed it."""
    _, plan, sha256 = open_certificate(file)
    own = load_keypair(settings.subnet).ss58_address
    if own != plan.signer:
        raise SettingsError(f"{file} is signed by {plan.signer}, your hotkey is {own}; only its signer can revoke it")
    if not reason.strip() or len(reason) > 500:
        raise SettingsError("--reason needs 1 to 500 characters")
    document = canonical_json(
        {"statement": sha256, "reason": reason.strip(), "revokedAt": timestamp(datetime.now(UTC)), "signer": own}
    )
    detail: dict[str, str | int] = {"statement": sha256, "reason": reason.strip()}
    return enter(settings, "revocation", plan.id, {"revocation.json": document}, "revocation.json", detail)


def challenge(settings: Settings, file: Path, record_id: str, subject: Subject) -> LogRecord:
    """Refute a certificate with a sealed record: enter in the log that it breaks an image that survived.

    Raises CorpusError where there is no such sealed, accepted record, and AuditError where it refutes nothing: another
    photograph, one that was broken anyway, a change beyond the levels, or no wrong label of this subject.
    """
    _, plan, sha256 = open_certificate(file)
    if subject.description.sha256 != plan.subject.sha256:
        raise AuditError("the weights at hand are not those of the certificate; name them with --weights")
    row, perturbed, png = _sealed(settings, record_id)
    results = read_table(CertificateFolder(file.parent).read("results.parquet"), RESULTS, "results.parquet")
    mine = [one for one in results if one["identity"] == row["original_sha256"]]
    if not mine:
        raise AuditError(f"record {record_id} shows a photograph that the certificate's sample does not have")
    original, changed = perturbed
    size = distances(original, changed).linf_levels
    refuted = [one["level"] for one in mine if one["status"] == "survived" and one["level"] >= size]
    if not refuted:
        states = ", ".join(f"{one['status'].replace('_', ' ')} at {one['level']}" for one in mine)
        raise AuditError(f"record {record_id} changes {size} levels; its photograph is {states}: nothing is refuted")
    if not breaks(subject.classifier, changed, mine[0]["label"]):
        raise AuditError(f"record {record_id} does not break its photograph for this subject")
    name = f"refutation-{record_id}.json"
    document = canonical_json(
        {
            "statement": sha256,
            "record_id": record_id,
            "identity": row["original_sha256"],
            "level": refuted[0],
            "linf_levels": size,
            "perturbed": base64.b64encode(png).decode(),
        }
    )
    detail: dict[str, str | int] = {"statement": sha256, "record_id": record_id, "level": refuted[0]}
    return enter(settings, "refutation", plan.id, {name: document}, name, detail)


def _sealed(settings: Settings, record_id: str) -> tuple[dict[str, Any], Any, bytes]:
    import pyarrow.compute as pc

    corpus = Corpus.open(settings)
    wanted = (pc.field("record_id") == record_id) & (pc.field("outcome") == "accepted")
    for manifest in corpus.days_of(record_id):
        rows = corpus.metadata(manifest).to_table(filter=wanted).to_pylist()
        if rows:
            (pair,) = corpus.read_pairs(rows[:1])
            return rows[0], pair_pixels(pair), bytes(pair.perturbed)
    raise CorpusError(f"no sealed day of {settings.store} has an accepted record {record_id}")
