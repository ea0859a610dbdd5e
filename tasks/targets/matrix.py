"""Reading what is known of all targets side by side: which perturbations flip which network, and what attacks take."""

from perturb.schemas.target_matrix import TargetMatrix
from perturb.sinks.targets.registry import Registry


def read_matrix(registry: Registry) -> TargetMatrix:
    """Return the newest report of each target that was measured. Raises CorpusError for an invalid one."""
    targets = [registry.get(name) for name in registry.names()]
    targets.sort(key=lambda one: (one.generation is None, one.generation or 0, one.created_at, one.name))
    reports = {one.name: report for one in targets if (report := registry.report(one.name)) is not None}
    return TargetMatrix(reports)
