"""The sealed days that may be exported, shared and published: those that trusted validators signed."""

from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta

from perturb.schemas.errors import CorpusError
from perturb.schemas.tier import Tier
from perturb.schemas.trust import Trust
from perturb.sinks.corpus import keys
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

    The third value counts the days that do not count under `trust`, by the reason. Only days after the last exported
    one are looked at, so that the cost does not depend on the age of the export.
    """
    fresh: list[Manifest] = []
    left: Counter[str] = Counter()
    held_back: list[date] = []
    for day in _sealed_after(corpus, contents.until):
        if not due(day, tier, today):
            held_back.append(day)
        elif (manifest := corpus.manifest(day)) is not None:
            if refusal := manifest.refusal(trust):
                left[refusal] += 1
            else:
                fresh.append(manifest)
    return fresh, tuple(held_back), left


def _sealed_after(corpus: Corpus, until: date | None) -> Iterator[date]:
    """Yield the days after `until` that have a manifest, in their order. The objects of these days are listed."""
    after = "" if until is None else keys.day_folder(keys.SEALED, until + timedelta(days=1))[:-1]
    found = set()
    for entry in corpus.store.entries(keys.SEALED + "date=", after=after):
        folder, _, name = entry.key.removeprefix(keys.SEALED).partition("/")
        if name == keys.MANIFEST and (day := keys.folder_day(folder)) is not None:
            found.add(day)
    yield from sorted(found)


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
