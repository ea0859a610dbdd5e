"""Files about the log: proofs that are checked, heads and consistency proofs that are written, and its entries."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perturb.cli.output import read_file, say, say_json, table, write_file

if TYPE_CHECKING:
    from perturb.schemas.trust import Trust
    from perturb.sinks.log.entry import Entry, Head
    from perturb.sinks.log.log import Log
    from perturb.tasks.corpus.consistency import ConsistencyProof


@dataclass(frozen=True)
class Against:
    """What a proof is compared with: a head's file, a root, what a hotkey committed on chain, and trusted hotkeys."""

    head: Path | None
    root: str | None
    on_chain: str | None
    hotkeys: tuple[str, ...]


def check_proof_files(proof: Path | None, consistency: Path | None, against: Against, *, json_: bool) -> None:
    """Check a record's proof, a consistency proof, or both together.

    A head must be signed by one of the hotkeys or, without any, by the own hotkey or a trusted validator of the
    settings; a root needs no signature. Raises AuditError where something does not hold and where nothing says whose
    log it is, SettingsError for a file that cannot be read, SubnetError where the chain has no root of that validator.
    """
    from perturb.schemas.settings import load_settings
    from perturb.subnet.trust import load_trust
    from perturb.tasks.corpus.consistency import parse_consistency, parse_head, plain_root

    named = [*against.hotkeys, *([against.on_chain] if against.on_chain else [])]
    trust = load_trust(load_settings().subnet, hotkeys=named)
    head = parse_head(read_file(against.head, "--head"), str(against.head)) if against.head else None
    root = _committed_root(against.on_chain) if against.on_chain else against.root
    root = plain_root(root) if root else None
    grown = None
    if consistency is not None:
        grown = parse_consistency(read_file(consistency, "--consistency"), str(consistency))
    if proof is not None:
        _check_record(proof, trust, root, head, grown, json_=json_)
    elif grown is not None:
        _check_growth(grown, trust, root, head, json_=json_)


def check_log_had(entries: "Log", against: Against) -> None:
    """Check that the log once had each root that is given: those of a head's file, of `--root`, and on the chain.

    Raises AuditError where it never had one, SettingsError for a file that cannot be read, SubnetError where the chain
    has no root of that validator.
    """
    from perturb.schemas.errors import AuditError
    from perturb.tasks.corpus.consistency import parse_head, root_fault

    roots: dict[str, str] = {}
    if against.head is not None:
        roots[f"that of {against.head}"] = parse_head(read_file(against.head, "--head"), str(against.head)).root
    if against.root is not None:
        roots["given as --root"] = against.root
    if against.on_chain is not None:
        roots[f"which {against.on_chain} committed on the chain"] = _committed_root(against.on_chain)
    for whose, root in roots.items():
        if fault := root_fault(entries, root, whose):
            raise AuditError(fault)
        say(f"the log had root {root}, {whose}")


def _check_record(
    file: Path, trust: "Trust", root: str | None, head: "Head | None", grown: "ConsistencyProof | None", *, json_: bool
) -> None:
    from perturb.schemas.errors import AuditError
    from perturb.tasks.corpus.prove import check_proof, parse_proof

    report = check_proof(
        parse_proof(read_file(file, "--proof"), str(file)), trust=trust, root=root, head=head, consistency=grown
    )
    compared = " and ".join(report.against) or "nothing that you trust"
    say(f"record {report.record_id} of {report.day}, log root {report.root}, compared with {compared}")
    if json_:
        say_json(asdict(report) | {"holds": report.holds})
    if not report.holds:
        raise AuditError(
            f"the proof does not hold: {'; '.join(report.faults)}; name the validator that you trust with --hotkey, "
            "from a source other than the proof, or a root with --root or --on-chain"
        )
    say("the proof holds")


def _check_growth(
    grown: "ConsistencyProof", trust: "Trust", root: str | None, head: "Head | None", *, json_: bool
) -> None:
    from perturb.schemas.errors import AuditError

    faults = grown.faults(trust)
    for wanted, name in ((root, f"root {root}"), (head and head.root, "the given head")):
        if wanted is not None and wanted not in (grown.old.root, grown.new.root):
            faults.append(f"neither of its heads has {name}: the log never had that root, or not at these lengths")
    if json_:
        say_json({"old": grown.old.size, "new": grown.new.size, "faults": faults, "holds": not faults})
    if faults:
        raise AuditError(f"the consistency proof does not hold: {'; '.join(faults)}")
    say(f"the log of {grown.new.size} entries begins with that of {grown.old.size}, signed by {grown.new.signer}")


def _committed_root(hotkey: str) -> str:
    from perturb.schemas.errors import SubnetError
    from perturb.schemas.settings import load_settings
    from perturb.subnet.chain import open_chain

    root = open_chain(load_settings().subnet).read_commitment(hotkey)
    if root is None:
        raise SubnetError(f"hotkey {hotkey} has committed no root on chain; compare with its signed head instead")
    return root


def write_consistency(entries: "Log", old: int, new: int, output: Path | None) -> None:
    """Write the proof that the log of `new` entries begins with that of `old`."""
    from perturb.tasks.corpus.consistency import prove_consistency

    written = output or Path(f"log-{old}-{new}.consistency.json")
    write_file(written, prove_consistency(entries, old, new).to_json(), "--output")
    say(f"the proof that the log of {new} entries begins with that of {old} is in {written}")


def write_head(entries: "Log", output: Path | None) -> None:
    """Write the newest signed head."""
    from perturb.schemas.errors import CorpusError
    from perturb.sinks.formats.version import FORMAT
    from perturb.tasks.corpus.consistency import HeadFile

    newest = entries.newest()
    if newest is None:
        raise CorpusError("the log is empty; seal a day first")
    written = output or Path(f"log-{newest.head.size}.head.json")
    write_file(written, HeadFile(format=FORMAT, head=newest.head).to_json(), "--output")
    say(f"the head over {newest.head.size} entries, root {newest.head.root}, is in {written}")


def say_log(entries: "Log", last: int, *, json_: bool) -> None:
    """Print the newest entries, the newest last."""
    newest = entries.newest()
    length = 0 if newest is None else newest.head.size
    shown = list(entries.records(max(0, length - last)))
    rows = [
        [
            str(record.entry.sequence),
            f"{record.entry.at:%Y-%m-%d %H:%M}",
            record.entry.kind.replace("-", " "),
            _subject(record.entry),
            f"{record.entry.totals.records:,}",
            (record.entry.signer or "no one")[:8],
        ]
        for record in shown
    ]
    columns = ["entry", "at (UTC)", "kind", "of", "records", "signer"]
    root = "" if newest is None else f", root {newest.head.root}"
    say(table(f"log: {length} entries{root}", columns, rows, whole=["at (UTC)", "of"]))
    if json_:
        say_json({"entries": length, "shown": [record.model_dump(mode="json") for record in shown]})


def _subject(entry: "Entry") -> str:
    """Return what an entry is about, in a word: a day, a target, a record, a plan, or who won."""
    if entry.kind == "model-track":
        return str(entry.detail.get("winner") or "no winner")[:9]
    return next(
        (str(entry.detail[name]) for name in ("day", "target", "record_id", "id") if name in entry.detail), entry.key
    )
