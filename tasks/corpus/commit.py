"""The last step of a round: records and images onto the store, as a whole or not at all."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from perturb.schemas.challenge import Challenge
from perturb.schemas.record import Record, make_record
from perturb.schemas.response import Response
from perturb.schemas.signature import Signer
from perturb.schemas.trust import ANYONE, Trust
from perturb.schemas.verdict import Score, Verdict
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.rounds import RoundDraft, check_records, draft_round


@dataclass(frozen=True)
class RoundSummary:
    """What a committed round added to the corpus.

    `responses` counts all responses, `accepted` those with an accepted image, `outcomes` all by their outcome.
    `stored_bytes` is the size of the round's objects.
    """

    round_id: str
    day: date
    responses: int
    accepted: int
    outcomes: Mapping[str, int]
    stored_bytes: int
    merkle_root: str
    records: tuple[Record, ...] = field(repr=False)

    @property
    def refused(self) -> dict[str, int]:
        """The number of refusals by reason."""
        return {outcome: count for outcome, count in self.outcomes.items() if outcome != "accepted"}


def commit_round(
    corpus: Corpus,
    challenge: Challenge,
    responses: Sequence[Response],
    verdicts: Sequence[Verdict],
    scores: Sequence[Score],
    *,
    netuid: int,
    block: int | None,
    validator_hotkey: str,
    signer: Signer | None = None,
) -> RoundSummary:
    """Commit one challenge with its verified responses. The three sequences are in the same order.

    With `signer` (the validator's keypair) the round's statement is signed. Committing the same round again leaves the
    corpus as it is. Raises CorpusError for an inconsistent round and StoreError when the store fails; in both cases the
    round does not exist afterwards.
    """
    records = [
        make_record(challenge, response, verdict, score, netuid=netuid, block=block, validator_hotkey=validator_hotkey)
        for response, verdict, score in zip(responses, verdicts, scores, strict=True)
    ]
    bodies = {record.record_id: response.body for record, response in zip(records, responses, strict=True)}
    draft = commit_records(corpus, records, challenge.png, bodies, signer=signer)
    outcomes = Counter(record.outcome for record in records)
    return RoundSummary(
        round_id=draft.round_id,
        day=draft.day,
        responses=len(records),
        accepted=draft.statement.images,
        outcomes=dict(outcomes),
        stored_bytes=draft.size,
        merkle_root=draft.statement.merkle_root,
        records=tuple(records),
    )


def commit_records(
    corpus: Corpus,
    records: Sequence[Record],
    original_png: bytes,
    bodies: Mapping[str, bytes],
    *,
    signer: Signer | None = None,
) -> RoundDraft:
    """Commit the records of one round with its images; return what was written.

    `bodies` maps the IDs of accepted records to the PNGs as the miners sent them. A retry finds the partition of the
    earlier try. Raises as `commit_round` does.
    """
    round_id = check_records(records)
    # Days that other validators sealed may take in this round or leave it to the next.
    trust = ANYONE if signer is None else Trust(frozenset({signer.ss58_address}))
    day = corpus.place_round(round_id, min(record.created_at for record in records), trust)
    draft = draft_round(day, records, original_png, bodies, signer=signer)
    corpus.write_round(draft)
    return draft
