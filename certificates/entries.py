"""Certificates in the store and in its log: plans, certificates, and what is said of them later."""

from collections.abc import Sequence
from datetime import UTC, datetime

from perturb.certificates.envelope import STATEMENT_TYPE, open_envelope
from perturb.certificates.folder import CERTIFICATE, PAGE, CertificateFolder
from perturb.certificates.log_check import key_of
from perturb.certificates.plan import open_plan
from perturb.certificates.statement import digest_of
from perturb.schemas.errors import CorpusError
from perturb.schemas.settings import Settings
from perturb.sinks.log.entry import LogRecord, NewEntry
from perturb.sinks.log.log import Log
from perturb.sinks.stores.open import open_store
from perturb.subnet.chain import open_chain
from perturb.subnet.keys import LOCAL_NETWORK, load_keypair
from perturb.subnet.trust import load_trust


def enter_plan(settings: Settings, folder: CertificateFolder) -> int:
    """Publish plan.json in the store and enter it in the log; return the entry's number."""
    data = folder.read("plan.json")
    plan = open_plan(data, "plan.json")
    detail: dict[str, str | int] = {"id": plan.id, "subject": plan.subject.sha256, "run_before": plan.run_before}
    return enter(settings, "plan", plan.id, {"plan.json": data}, "plan.json", detail).entry.sequence


def enter_certificate(settings: Settings, folder: CertificateFolder) -> int:
    """Publish a certificate's files in the store and enter it in the log; return the entry's number."""
    plan = open_plan(folder.read("plan.json"), "plan.json")
    names = ("plan.json", "pool.parquet", "evidence.tar", "results.parquet", PAGE, CERTIFICATE)
    files = {name: folder.read(name) for name in names}
    statement = digest_of(open_envelope(files[CERTIFICATE], STATEMENT_TYPE, CERTIFICATE).body)
    detail: dict[str, str | int] = {"id": plan.id, "subject": plan.subject.sha256, "statement": statement}
    return enter(settings, "certificate", plan.id, files, CERTIFICATE, detail).entry.sequence


def enter(
    settings: Settings,
    kind: str,
    certificate_id: str,
    files: dict[str, bytes],
    document: str,
    detail: dict[str, str | int],
) -> LogRecord:
    """Put files into the store, the `document` last, and append an entry about it to the log.

    On a chain the new head's root is committed. Raises CorpusError where other bytes lie at one of the keys.
    """
    store = open_store(settings.store, settings.s3)
    for name in sorted(files, key=lambda name: name == document):
        if not store.put_new(key_of(certificate_id, name), files[name]):
            raise CorpusError(f"{key_of(certificate_id, name)} is there already with other bytes; nothing was logged")
    hotkey = load_keypair(settings.subnet)
    new = NewEntry.model_validate(
        {
            "kind": kind,
            "key": key_of(certificate_id, document),
            "sha256": digest_of(files[document]),
            "detail": detail,
        }
    )
    record = open_log(settings).append(new, signer=hotkey, at=datetime.now(UTC).replace(microsecond=0))
    if settings.subnet.network != LOCAL_NETWORK:
        open_chain(settings.subnet).commit(hotkey, record.head.root)
    return record


def open_log(settings: Settings, *, hotkeys: Sequence[str] = ()) -> Log:
    """Return the log of the configured store, as far as trusted validators signed it."""
    return Log(open_store(settings.store, settings.s3), trust=load_trust(settings.subnet, hotkeys=hotkeys))
