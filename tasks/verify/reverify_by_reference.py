"""Re-verification by reference: whoever does it reads the images itself, wherever it runs."""

from collections.abc import Sequence
from itertools import groupby

from perturb.models.classifier import Classifier
from perturb.schemas.errors import CorpusError
from perturb.schemas.record import Record
from perturb.schemas.settings import Settings
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.tasks.verify.reverify import reverify_samples
from perturb.tasks.verify.stored_pair import Sample


def reference(sample: Sample) -> str:
    """`rounds/date=…/ROUND/RECORD` of a sample that was read from a live round."""
    shard = sample.record.perturbed_shard
    if shard is None:
        raise CorpusError(f"record {sample.record.record_id} has no image to verify again; read it from its round")
    return f"{shard.rpartition('/')[0]}/{sample.record.record_id}"


def reverify_references(
    corpus: Corpus, references: Sequence[str], *, classifier: Classifier, settings: Settings
) -> list[str | None]:
    """As `reverify_samples`, for references; those of one round should stand together."""
    samples: list[Sample] = []
    for folder, group in groupby(references, key=lambda text: text.rpartition("/")[0]):
        samples += _load(corpus, folder, [text.rpartition("/")[2] for text in group])
    return list(reverify_samples(samples, classifier=classifier, settings=settings))


def _round(folder: str) -> RoundRef:
    _, day, round_id = folder.split("/")
    partition = keys.folder_day(day)
    if partition is None:
        raise CorpusError(f"{folder} is no round's folder; name one as rounds/date=2026-01-31/ROUND")
    return RoundRef(partition, round_id)


def _load(corpus: Corpus, folder: str, record_ids: Sequence[str]) -> list[Sample]:
    rows = {row["record_id"]: row for row in corpus.read_round(_round(folder)).rows}
    samples = []
    for record_id in record_ids:
        record = Record.model_validate(rows[record_id])
        original, perturbed = (
            corpus.read_images(row_shard, [(offset, length)])[0]
            for row_shard, offset, length in (
                (record.original_shard, record.original_offset, record.original_length),
                (record.perturbed_shard, record.perturbed_offset, record.perturbed_length),
            )
            if row_shard is not None and offset is not None and length is not None
        )
        samples.append(Sample(record, original, perturbed))
    return samples
