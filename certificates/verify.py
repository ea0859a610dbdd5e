"""Verification of a certificate, in levels that each say what they cost.

L1 form and signatures; L2 digests and roots; L3 beacon, sample and seeds; L4 every figure, sentence and the page; L5
every broken image again; L6 surviving images attacked again; L7 the log. A level that finds a fault ends the
verification: what comes after it would rest on nothing.
"""

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from perturb.certificates import beacon as drand
from perturb.certificates.envelope import STATEMENT_TYPE, Envelope, open_envelope, parsed_body, signature_faults
from perturb.certificates.folder import EVIDENCE, PAGE, CertificateFolder, unpack
from perturb.certificates.page import render_page
from perturb.certificates.plan import Plan, moment, open_plan, parse_plan
from perturb.certificates.program import code_digest
from perturb.certificates.sample_check import sample_faults
from perturb.certificates.statement import PREDICATE, STATEMENT, Observed, derive, digest_of, pulse_of
from perturb.certificates.subject import Subject
from perturb.certificates.tables import POOL, RESULTS, Row, read_table, tree_root
from perturb.certificates.witnesses import replay_faults, witness_faults
from perturb.schemas.errors import AuditError, PerturbError
from perturb.schemas.trust import Trust
from perturb.sinks.log.log import Log

Outcome = Literal["holds", "fault", "skipped"]
_MOST_NAMED = 20


@dataclass(frozen=True)
class Level:
    """What one level found: `faults` has a sentence each, `note` says why it was skipped or what it compared."""

    name: str
    what: str
    outcome: Outcome
    faults: tuple[str, ...]
    note: str
    seconds: float


@dataclass
class Verification:
    """The levels so far, and what later ones build on. `status` is that of the certificate as of now."""

    levels: list[Level] = field(default_factory=list)
    status: str = "unknown"
    statement: dict[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether no level found a fault."""
        return all(level.outcome != "fault" for level in self.levels)


class Skipped(Exception):
    """A level can't be checked here; the message says what is missing."""


@dataclass(frozen=True)
class Request:
    """What is verified, and with what: `subject` gives the network or raises `Skipped`; `log` is None without one."""

    file: Path
    evidence: Path | None
    trust: Trust
    now: datetime
    subject: Callable[[Plan], Subject]
    replay: int = 0
    log: Log | None = None
    on_chain: Callable[[], str | None] | None = None


def verify(request: Request, tell: Callable[[str], None] = lambda _: None) -> Verification:
    """Verify as far as the files, the weights and the log at hand allow. Faults are named, never raised."""
    return _Verifier(request, tell).run()


class _Verifier:
    def __init__(self, request: Request, tell: Callable[[str], None]):
        self._request, self._tell = request, tell
        self._found = Verification()
        self._folder = CertificateFolder(request.evidence or request.file.parent)
        self._envelope: Envelope
        self._plan: Plan
        self._observed: Observed
        self._pool: list[Row] = []
        self._results: list[Row] = []
        self._members: dict[str, bytes] = {}
        self._subject: Subject

    def run(self) -> Verification:
        steps: list[tuple[str, str, Callable[[], Iterable[str]]]] = [
            ("L1", "form and signatures", self._signatures),
            ("L2", "digests and roots", self._digests),
            ("L3", "beacon, sample and seeds", self._sample),
            ("L4", "figures, sentences and page", self._figures),
            ("L5", "every broken image again", self._witnesses),
            ("L6", "surviving images attacked again", self._replay),
            ("L7", "log", self._log),
        ]
        because = ""
        for name, what, step in steps:
            level = self._level(name, what, step, because)
            self._found.levels.append(level)
            if level.outcome == "fault" or (name == "L2" and level.outcome == "skipped"):
                because = f"{name} {'found a fault' if level.outcome == 'fault' else 'could not be checked'}"
            if level.outcome == "skipped" and name == "L2":
                because = level.note
        if self._found.holds and self._found.status == "unknown":
            self._found.status = self._validity()
        return self._found

    def _level(self, name: str, what: str, step: Callable[[], Iterable[str]], because: str) -> Level:
        if because:
            return Level(name, what, "skipped", (), because, 0.0)
        self._tell(f"{name} {what}")
        began = time.perf_counter()
        note = ""
        try:
            faults = tuple(step())
            outcome: Outcome = "fault" if faults else "holds"
        except Skipped as reason:
            faults, outcome, note = (), "skipped", str(reason)
        except PerturbError as error:
            faults, outcome = (str(error),), "fault"
        if len(faults) > _MOST_NAMED:
            faults = (*faults[:_MOST_NAMED], f"and {len(faults) - _MOST_NAMED} more")
        return Level(name, what, outcome, faults, note, time.perf_counter() - began)

    def _signatures(self) -> list[str]:
        where = self._request.file.name
        data = CertificateFolder(self._request.file.parent).read(where)
        self._envelope = open_envelope(data, STATEMENT_TYPE, where)
        statement = parsed_body(self._envelope, where)
        if statement.get("_type") != STATEMENT or statement.get("predicateType") != PREDICATE:
            return [f"{where} is another kind of statement; accepted: {PREDICATE}"]
        try:
            block = statement["predicate"]["robustness"]
            self._plan = parse_plan(block["plan"], "the plan in the statement")
            self._observed = Observed.model_validate(block["observed"])
            pulse_of(self._observed)
        except (KeyError, TypeError, ValidationError) as error:
            return [f"{where} is not a certificate of this form: {str(error).splitlines()[0]}"]
        self._found.statement = statement
        plan = self._plan
        faults = signature_faults(self._envelope, hotkey=plan.signer, companion=plan.companion)
        stranger = self._request.trust.signer_fault(plan.signer)
        return [*faults, *([f"the certificate does not count: {stranger}"] if stranger else [])]

    def _digests(self) -> list[str]:
        missing = [name for name in EVIDENCE if not self._folder.has(name)]
        if len(missing) == len(EVIDENCE) and self._request.evidence is None:
            raise Skipped(f"no evidence lies beside {self._request.file.name}; name its folder with --evidence")
        if missing:
            return [f"{self._folder.path} lacks {name}" for name in missing]
        stated = self._stated_digests()
        faults = [
            f"{name} is not the file that the statement names: its sha256 is another"
            for name in ("pool.parquet", "evidence.tar", "results.parquet")
            if stated.get(name) != digest_of(self._folder.read(name))
        ]
        if faults:
            return faults
        plan = open_plan(self._folder.read("plan.json"), "plan.json")
        if plan != self._plan:
            return ["plan.json is another plan than the one in the statement"]
        predicate = self._found.statement["predicate"]
        if predicate.get("preRegistration") != {"alg": "sha256", "value": plan.sha256}:
            return ["preRegistration is not the digest of the plan"]
        self._pool = read_table(self._folder.read("pool.parquet"), POOL, "pool.parquet")
        self._results = read_table(self._folder.read("results.parquet"), RESULTS, "results.parquet")
        self._members = unpack(self._folder.read("evidence.tar"), "evidence.tar")
        if tree_root(self._pool) != plan.pool.root:
            faults.append("pool.parquet is not the pool of the plan: the root over its rows is another")
        if tree_root(self._results) != predicate["robustness"].get("resultsRoot"):
            faults.append("resultsRoot is not the root over the rows of results.parquet")
        return faults

    def _stated_digests(self) -> dict[str, str]:
        predicate = self._found.statement["predicate"]
        entries = [*predicate.get("evidence", ()), predicate.get("dataset")]
        try:
            return {entry["name"]: entry["digest"]["sha256"] for entry in entries}
        except (KeyError, TypeError) as error:
            raise AuditError("the statement's evidence is not a list of names and digests") from error

    def _sample(self) -> list[str]:
        return sample_faults(self._plan, self._observed, self._pool, self._results)

    def _figures(self) -> list[str]:
        stated = self._stated_digests()
        derived = derive(self._plan, self._pool, self._results, self._observed, stated)
        if derived != self._found.statement:
            return [
                f"{place} is not what follows from the results"
                for place in _differences(derived, self._found.statement)
            ]
        if not self._folder.has(PAGE):
            return [f"{self._folder.path} lacks {PAGE}"]
        page = render_page(derived, self._results, self._members).encode()
        return [] if self._folder.read(PAGE) == page else [f"{PAGE} is not the page of this certificate"]

    def _witnesses(self) -> list[str]:
        faults = witness_faults(self._results, self._members, subject=None)
        if faults:
            return faults
        self._subject = self._request.subject(self._plan)
        if self._subject.description.sha256 != self._plan.subject.sha256:
            raise Skipped(
                f"the weights at hand are others ({self._subject.description.sha256[:12]}…); name the certified ones "
                "with --weights. The sizes of the changes were checked"
            )
        return witness_faults(self._results, self._members, subject=self._subject)

    def _replay(self) -> list[str]:
        if not self._request.replay:
            raise Skipped("not asked for; --replay K attacks K surviving images again")
        if not any(row["status"] == "survived" for row in self._results):
            raise Skipped("no image survived, so that there is none to attack again")
        if self._found.levels[-1].outcome != "holds":
            raise Skipped("the subject's weights are needed")
        if self._plan.suite.code_sha256 != code_digest():
            raise Skipped("the code of the attacks changed since; use the version that made the certificate")
        pulse = pulse_of(self._observed)
        randomness = drand.NO_RANDOMNESS if pulse is None else pulse.randomness
        return replay_faults(
            self._plan,
            self._results,
            self._members,
            self._subject,
            randomness,
            count=self._request.replay,
            tell=self._tell,
        )

    def _log(self) -> list[str]:
        if self._request.log is None:
            raise Skipped("no log was named; --log STORE")
        from perturb.certificates.log_check import check_log

        found = check_log(self._request.log, self._plan, digest_of(self._envelope.body), self._folder)
        if self._request.on_chain is not None:
            found.compare_with_chain(self._request.on_chain())
        self._found.status = found.status(self._validity())
        return found.faults

    def _validity(self) -> str:
        try:
            until = moment(self._found.statement["predicate"]["validity"]["until"])
        except (KeyError, TypeError, ValueError):
            return "unknown"
        return "expired" if self._request.now > until else "valid"


def _differences(derived: Any, stated: Any, place: str = "") -> list[str]:
    """The places at which two JSON values differ, the deepest ones."""
    if isinstance(derived, dict) and isinstance(stated, dict):
        names = sorted(derived.keys() | stated.keys())
        return [
            found
            for name in names
            for found in (
                _differences(derived[name], stated[name], f"{place}.{name}".lstrip("."))
                if name in derived and name in stated
                else [f"{place}.{name}".lstrip(".")]
            )
        ]
    if isinstance(derived, list | tuple) and isinstance(stated, list) and len(derived) == len(stated):
        return [
            found
            for index, (one, other) in enumerate(zip(derived, stated, strict=True))
            for found in _differences(one, other, f"{place}.{index}")
        ]
    return [] if derived == stated and type(derived) is type(stated) else [place]


def trusts(hotkeys: Collection[str]) -> Trust:
    """Return the trust in these hotkeys; in every signer where none is named."""
    return Trust(frozenset(hotkeys) if hotkeys else None)
