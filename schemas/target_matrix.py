"""What is known of all targets side by side."""

from dataclasses import dataclass

from perturb.schemas.report_card import Share, TargetReport


@dataclass(frozen=True)
class TargetMatrix:
    """The newest reports, by target, in the order of generations.

    `flips[network][made_for]` is the share of the held-out perturbations made for one target that flip another.
    """

    reports: dict[str, TargetReport]

    @property
    def flips(self) -> dict[str, dict[str, Share]]:
        """The rows of the matrix, by network."""
        return {name: report.card.old_flips for name, report in self.reports.items()}

    @property
    def made_for(self) -> list[str]:
        """The targets that perturbations were made for, in the order of generations, then others by name."""
        known = {name for row in self.flips.values() for name in row}
        return [name for name in self.reports if name in known] + sorted(known - self.reports.keys())
