"""The last step of a round: records and images onto the store, whole or not at all."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from perturb.schemas.challenge import Challenge
from perturb.schemas.record import Record, make_record
from perturb.schemas.response import Response
from perturb.schemas.verdict import Score, Verdict
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import Signer


@dataclass(frozen=True)
class RoundSummary:
    """What a committed round added to the corpus. `outcomes` counts every response by its outcome."""

    round_id: str
    day: date
    records: int
    accepted: int
    outcomes: Mapping[str, int]
    stored_bytes: int
    merkle_root: str
    rows: tuple[Record, ...] = field(repr=False)

    @property
    def refused(self) -> dict[str, int]:
        """Refusals by reason."""
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
    """Commit one challenge with its judged responses; the three sequences are in the same order.

    With `signer` (the validator's keypair) the round's digests are signed. Calling it again with the same round
    leaves the corpus as it is. Raises CorpusError for an inconsistent round, StoreError when the store fails; in
    both cases the round does not exist afterwards.
    """
    records = [
        make_record(challenge, response, verdict, score, netuid=netuid, block=block, validator_hotkey=validator_hotkey)
        for response, verdict, score in zip(responses, verdicts, scores, strict=True)
    ]
    bodies = {record.record_id: response.body for record, response in zip(records, responses, strict=True)}
    ref, draft = corpus.commit(records, challenge.png, bodies, signer=signer)
    outcomes = Counter(record.outcome for record in records)
    return RoundSummary(
        round_id=ref.round_id,
        day=ref.day,
        records=len(records),
        accepted=draft.statement.images,
        outcomes=dict(outcomes),
        stored_bytes=draft.size,
        merkle_root=draft.statement.merkle_root,
        rows=tuple(records),
    )
