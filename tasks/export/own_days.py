"""The sealed days that may be exported, shared and published: those that trusted validators signed."""

from collections import Counter
from datetime import date
from itertools import takewhile

from perturb.schemas.errors import CorpusError
from perturb.schemas.tier import Tier
from perturb.schemas.trust import Trust
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.dataset.contents import ExportContents
from perturb.tasks.export.plan import due

ADVICE = "list the signer in subnet.trusted_validators if it is one of yours, otherwise run `perturb audit`"


def own_manifests(corpus: Corpus, trust: Trust) -> tuple[list[Manifest], Counter[str]]:
    """Return the manifests that count under `trust`, in the order of days, and counts of the others by the reason.

    It reads all of them: for previews, not for what runs on a schedule.
    """
    own: list[Manifest] = []
    left: Counter[str] = Counter()
    for manifest in corpus.manifests():
        if refusal := manifest.refusal(trust):
            left[refusal] += 1
        else:
            own.append(manifest)
    return own, left


def days_to_export(
    corpus: Corpus, contents: ExportContents, tier: Tier, today: date, trust: Trust
) -> tuple[list[Manifest], tuple[date, ...], Counter[str]]:
    """Return the sealed days that the tier's next version adds, in their order, and the days that its delay holds back.

    The third value counts what does not count under `trust`, by the reason: such days, and entries at the end of the
    log. Only days after the last exported one are looked at, so that the cost does not depend on the age of the export.
    """
    fresh: list[Manifest] = []
    left: Counter[str] = Counter()
    held_back: list[date] = []
    until = contents.until or date.min
    for manifest in takewhile(lambda manifest: manifest.day > until, corpus.days_back(trust, left=left)):
        if not due(manifest.day, tier, today):
            held_back.append(manifest.day)
        elif refusal := manifest.refusal(trust):
            left[refusal] += 1
        else:
            fresh.append(manifest)
    return fresh[::-1], tuple(held_back[::-1]), left


def check_exported(corpus: Corpus, contents: ExportContents, trust: Trust) -> None:
    """Raise CorpusError unless the last exported day came from the corpus' sealed day, which counts under `trust`.

    Each day is compared when it is exported; the last one stands for those before it.
    """
    if contents.until is None:
        return
    day, tier, manifest = contents.until, contents.tier, corpus.manifest(contents.until)
    if manifest is None or manifest.merkle_root != contents.days[day]:
        raise CorpusError(
            f"tier {tier} exported {day} from another sealed day than the one in the corpus now; "
            "restore the corpus, or export into an empty store"
        )
    if refusal := manifest.refusal(trust):
        raise CorpusError(f"tier {tier} holds {day}, but of that sealed day: {refusal}; {ADVICE}")
