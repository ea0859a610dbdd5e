"""What is known of all targets side by side: which perturbations flip which network, and what a fresh attack takes."""

from dataclasses import dataclass

from perturb.schemas.report_card import Share, TargetReport
from perturb.sinks.targets.registry import Registry


@dataclass(frozen=True)
class TargetMatrix:
    """The newest reports, by target, in the order of generations.

    `flips[network][made_for]` is the share of the held-out perturbations made for one target that flip another.
    """

    reports: dict[str, TargetReport]
    flips: dict[str, dict[str, Share]]

    @property
    def made_for(self) -> list[str]:
        """The targets that perturbations were made for, in the order of generations, then others by name."""
        known = {name for row in self.flips.values() for name in row}
        return [name for name in self.reports if name in known] + sorted(known - self.reports.keys())


def read_matrix(registry: Registry) -> TargetMatrix:
    """Return the newest report of each target that was measured. Raises CorpusError for an invalid one."""
    targets = [registry.get(name) for name in registry.names()]
    targets.sort(key=lambda one: (one.generation is None, one.generation or 0, one.created_at, one.name))
    reports = {one.name: report for one in targets if (report := registry.report(one.name)) is not None}
    return TargetMatrix(reports, {name: report.card.old_flips for name, report in reports.items()})
