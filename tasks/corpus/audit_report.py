"""What an audit found: counts, signers and faults, and the error that carries them."""

from dataclasses import dataclass, field

from perturb.schemas.errors import AuditError
from perturb.tasks.corpus.audit_rows import AuditFindings, Fault


@dataclass
class AuditReport:
    """What was audited, and its faults.

    `entries` counts those of the log, `unsigned` rounds and days without a signature, and `signers` those of each
    hotkey that they name. `reached` is the number of the log's entries up to which log and days were audited, by this
    audit or those that it goes on from, and `root` the root of the log of so many: `--since-entry` goes on there. They
    are 0 and None where one day was audited alone.
    """

    entries: int = 0
    days: int = 0
    rounds: int = 0
    records: int = 0
    images: int = 0
    reverified: int = 0
    unsigned: int = 0
    reached: int = 0
    root: str | None = None
    signers: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the audit found no fault."""
        return not self.faults

    def add(self, found: AuditFindings) -> None:
        """Add the findings of one round or day."""
        self.records += found.records
        self.images += found.images
        self.reverified += found.reverified
        if found.signer is None:
            self.unsigned += 1
        else:
            self.signers[found.signer] = self.signers.get(found.signer, 0) + 1
        self.faults += found.faults


class AuditFailed(AuditError):
    """An audit found faults; `report` has all of them, the message names the first."""

    def __init__(self, report: AuditReport):
        self.report = report
        first = report.faults[0]
        super().__init__(
            f"the audit found {len(report.faults)} faults, the first in {first.where}: {first.what}; "
            "`perturb audit` lists all"
        )

    def __reduce__(self) -> tuple[type["AuditFailed"], tuple[AuditReport]]:
        """Return how a copy is made: by the report, not by the message."""
        return type(self), (self.report,)
