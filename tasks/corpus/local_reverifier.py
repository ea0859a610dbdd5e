"""Re-verification in this process, as sealing and the deep audit use it when no workers are configured."""

from collections.abc import Iterable, Sequence

from perturb.schemas.pair import Pair, Reverify
from perturb.schemas.settings import Settings


def local_reverifier(settings: Settings) -> Reverify:
    """Return a `Reverify` that runs here. It loads the classifier at its first call, so an idle step loads nothing.

    The call raises ModelError where the classifier cannot be loaded.
    """

    def reverify(pairs: Sequence[Pair]) -> Iterable[str | None]:
        from perturb.models.classifier import load_classifier
        from perturb.tasks.verify.reverify import reverify_pairs

        return reverify_pairs(pairs, classifier=load_classifier(settings.classifier), settings=settings)

    return reverify
