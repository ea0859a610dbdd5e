"""The record: one row per response, accepted or refused. Its column names are public.

`Record` is the only definition. The Arrow schema, the columns that tiers may grant and the column descriptions of
dataset cards are derived from it.
"""

import hashlib
import re
from datetime import UTC, date, datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from perturb.schemas.bounds import Bounds
from perturb.schemas.challenge import Challenge, Terms
from perturb.schemas.response import Response
from perturb.schemas.target import target_name
from perturb.schemas.verdict import Persistence, Score, Transfer, Verdict

#: A metadata row: the columns of a `Record` by name, as Parquet and JSON readers give them.
Row = dict[str, Any]

#: The columns that say where the corpus stores a row's two images. They change when a day is sealed; the others do not.
POINTERS = (
    *("original_shard", "original_offset", "original_length"),
    *("perturbed_shard", "perturbed_offset", "perturbed_length"),
)


def _column(description: str) -> Any:
    return Field(description=description)


class Record(BaseModel):
    """One response and all that is known about it. A record has all columns; optional ones may be null."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # identity
    record_id: str = _column(
        "ID of the record: the UTC day of the challenge and 24 hex digits derived from task, miner and response; the "
        "sample key in tar shards"
    )
    round_id: str = _column("ID of the production round; IDs sort by time")
    task_id: str = _column("ID of the challenge that the miners received: 64 hex digits, the digest of its terms")
    task_salt: str = _column("random hex digits among the terms of the challenge, by which two challenges differ")
    created_at: datetime = _column("when the challenge was made (UTC)")
    netuid: int = _column("number of the Bittensor subnet")
    block: int | None = _column("chain block at which the list of neurons was read; null without a chain")
    validator_hotkey: str = _column("ss58 address of the validator that sent the challenge")
    # source
    source: str = _column("source of the clean photograph")
    source_id: str = _column(
        r"ID of the photograph at its source; an unprintable byte of a file name is \xNN, a backslash is doubled"
    )
    source_url: str | None = _column("web page of the photograph at its source")
    author: str | None = _column("photographer")
    license: str | None = _column("licence of the photograph")
    subject: str | None = _column("what the photograph shows, according to its source")
    # challenge
    true_label: int = _column("ImageNet-1k class index of the clean image")
    true_label_name: str = _column("English name of `true_label`")
    synset: str | None = _column("WordNet ID of `true_label`")
    true_class: int | None = _column(
        "class index that the source states; null when it states none, otherwise equal to `true_label`"
    )
    clean_confidence: float = _column("softmax probability of `true_label` on the clean image")
    clean_margin: float = _column("logit of `true_label` minus the highest other logit, on the clean image")
    subject_score: float | None = _column("the judge's score that `true_label` belongs to `subject`")
    classifier: str = _column("timm name of the attacked classifier")
    classifier_sha256: str = _column("sha256 of the weights of `classifier`")
    target: str = _column("name of the attacked network: these weights of `classifier`, among its other generations")
    log_size: int | None = _column(
        "number of the log's entries when the target was drawn from the line-up; null where there was no line-up"
    )
    judge: str = _column("name of the language model that compared labels, or 'none'")
    judge_sha256: str | None = _column("sha256 of the weights of `judge`")
    epsilon_min: float = _column("minimum required L-inf norm of the perturbation, on the 0..1 scale")
    epsilon: float = _column("maximum allowed L-inf norm of the perturbation, on the 0..1 scale")
    min_psnr: float = _column("minimum required PSNR in dB")
    min_ssim: float = _column("minimum required SSIM")
    min_margin: float = _column("margin in logits below which an accepted answer scores 0")
    norm_type: str = _column("norm that `epsilon` bounds")
    timeout_ms: int = _column("the challenge's timeout in milliseconds")
    height: int = _column("height of both images in pixels")
    width: int = _column("width of both images in pixels")
    excluded_labels: tuple[int, ...] = _column(
        "class indices that the miners were told not to flip to: the same kind of thing as `true_label`, or still "
        "right about `subject`"
    )
    # response
    miner_uid: int = _column("UID of the miner on the subnet when the challenge was sent")
    miner_hotkey: str = _column("ss58 address of the miner")
    response_ms: float = _column(
        "time from sending the challenge to the last byte of the response, in milliseconds (monotonic clock)"
    )
    outcome: str = _column("'accepted', or the reason of the refusal")
    detail: str | None = _column("the refusal in one sentence")
    body_sha256: str | None = _column("sha256 of the bytes that the miner sent")
    request_nonce: str | None = _column("nonce of the signed request that the response answers")
    miner_signature: str | None = _column(
        "the miner's sr25519 signature over `task_id`, nonce, both hotkeys and `body_sha256`"
    )
    # verdict
    adversarial_label: int | None = _column("ImageNet-1k class index that the classifier gives the perturbed image")
    adversarial_label_name: str | None = _column("English name of `adversarial_label`")
    adversarial_confidence: float | None = _column("softmax probability of `adversarial_label` on the perturbed image")
    margin: float | None = _column("highest other logit minus the logit of `true_label`, on the perturbed image")
    linf: float | None = _column("L-inf norm of the perturbation, max|a-b|, on the 0..1 scale")
    linf_levels: int | None = _column("L-inf norm of the perturbation, max|a-b|, in 8-bit levels")
    l0: int | None = _column("number of channel values that were changed")
    l0_pixels: int | None = _column("number of pixels that were changed")
    changed_share: float | None = _column("share of channel values that were changed, 0 to 1")
    l2: float | None = _column("L2 (Euclidean) norm of the perturbation, on the 0..1 scale")
    rmse: float | None = _column("root mean square of the perturbation, on the 0..1 scale")
    psnr: float | None = _column("peak signal-to-noise ratio in dB (data range 255)")
    ssim: float | None = _column("structural similarity of the two images")
    ssim_definition: str | None = _column("definition by which `ssim` was computed")
    semantic_score: float | None = _column(
        "the judge's score, 0 to 1, that both labels name the same kind of thing; without a match it may be "
        "an upper limit of the score"
    )
    semantic_mismatch: bool | None = _column(
        "whether the judge finds that the two labels name different kinds of things"
    )
    hypernym_height: int | None = _column(
        "severity of the flip: height of the lowest hypernym that both labels share in WordNet 3.0, from 1 (two house "
        "cats) to 18"
    )
    duplicate_of: str | None = _column("record ID of the earlier answer with the same pixels")
    duplicate_round: str | None = _column("round ID of the record that `duplicate_of` names")
    near_duplicate_of: str | None = _column("record ID of an earlier answer with nearly the same perturbation")
    persists: Persistence | None = _column("whether the misclassification survives JPEG compression and resampling")
    transfer: tuple[Transfer, ...] | None = _column("predictions of other classifiers for the perturbed image")
    # score
    quality: float = _column("score of the perturbation's size, 0..1; smaller perturbations score higher")
    speed: float = _column("score of the response time, 0..1; faster answers score higher")
    score: float = _column("0.7 quality + 0.3 speed; 0 for responses that were refused in their round")
    policy: str = _column("name and version of the scoring policy")
    # pixels
    original_sha256: str = _column("pixel identity of the clean image")
    perturbed_sha256: str | None = _column("pixel identity of the perturbed image")
    original_shard: str | None = _column("key of the tar that holds the clean image's PNG")
    original_offset: int | None = _column("offset in bytes of the clean image's PNG in `original_shard`")
    original_length: int | None = _column("length in bytes of the clean image's PNG")
    perturbed_shard: str | None = _column(
        "key of the tar that holds the perturbed image's PNG; null for refused responses"
    )
    perturbed_offset: int | None = _column("offset in bytes of the perturbed image's PNG in `perturbed_shard`")
    perturbed_length: int | None = _column("length in bytes of the perturbed image's PNG")


def record_id(created_at: datetime, task_id: str, miner_hotkey: str, answer_sha256: str | None) -> str:
    """Return the ID of a record: the UTC day of its challenge, `20260131`, and the first 24 hex digits of sha256 over
    `task_id|miner_hotkey|answer_sha256`. All 32 characters are hex digits.

    `created_at` is when the challenge was made, `answer_sha256` the pixel identity of the decoded image, else the
    digest of the body, else None (empty).
    """
    digest = hashlib.sha256(f"{task_id}|{miner_hotkey}|{answer_sha256 or ''}".encode()).hexdigest()
    return f"{created_at.astimezone(UTC):%Y%m%d}{digest[:24]}"


def record_day(record_id: str) -> date | None:
    """Return the UTC day of the challenge that a record ID begins with, or None for what is not a record ID."""
    if not re.fullmatch(r"[0-9]{8}[0-9a-f]{24}", record_id):
        return None
    try:
        return date(int(record_id[:4]), int(record_id[4:6]), int(record_id[6:8]))
    except ValueError:
        return None


def make_record(
    challenge: Challenge,
    response: Response,
    verdict: Verdict,
    score: Score,
    *,
    netuid: int,
    block: int | None,
    validator_hotkey: str,
) -> Record:
    """Return the record of one verified response. Its pointers are null until the shards are written."""
    task, origin = challenge.task, challenge.origin
    return Record(
        record_id=record_id(
            challenge.created_at,
            task.task_id,
            response.miner_hotkey,
            verdict.perturbed_sha256 or response.body_sha256,
        ),
        target=origin.target or target_name(task.classifier, task.classifier_sha256),
        round_id=challenge.round_id,
        created_at=challenge.created_at,
        netuid=netuid,
        block=block,
        validator_hotkey=validator_hotkey,
        miner_uid=response.miner_uid,
        miner_hotkey=response.miner_hotkey,
        response_ms=response.response_ms,
        body_sha256=response.body_sha256,
        request_nonce=response.nonce,
        miner_signature=response.signature,
        original_shard=None,
        original_offset=None,
        original_length=None,
        perturbed_shard=None,
        perturbed_offset=None,
        perturbed_length=None,
        **origin.model_dump(exclude={"target"}),
        **task.model_dump(exclude={"bounds"}),
        **task.bounds.model_dump(),
        **verdict.model_dump(),
        **score.model_dump(),
    )


def terms_of(record: Record) -> Terms:
    """Return the terms of the challenge that a record answers. Raises ValidationError for impossible ones."""
    bounds = Bounds(**{name: getattr(record, name) for name in Bounds.model_fields})
    return Terms(bounds=bounds, **{name: getattr(record, name) for name in Terms.model_fields if name != "bounds"})


def task_fault(record: Record) -> str | None:
    """Return why a record's terms are not those that its `task_id`, and so its miner's signature, stands for, or None.

    The id is a digest of all terms, so it can't be said which of them was changed.
    """
    try:
        digest = terms_of(record).digest()
    except ValueError as error:
        return f"the terms of its challenge are impossible: {' '.join(str(error).split())}"
    if digest == record.task_id:
        return None
    return (
        f"task_id {record.task_id} is not the digest of the terms that the record states, which is {digest}: bounds, "
        "label, original, timeout or another term was changed after the miner answered"
    )


_ARROW: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    datetime: pa.timestamp("us", tz="UTC"),
}


def _arrow_type(annotation: Any) -> pa.DataType:
    if get_origin(annotation) is UnionType:
        (annotation,) = (member for member in get_args(annotation) if member is not NoneType)
    if get_origin(annotation) is tuple:
        return pa.list_(_arrow_type(get_args(annotation)[0]))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return pa.struct([_arrow_field(name, info.annotation) for name, info in annotation.model_fields.items()])
    return _ARROW[annotation]


def _arrow_field(name: str, annotation: Any) -> pa.Field:
    # Always nullable: `datasets` removes non-nullability when it casts, and `Record` says what may be null.
    return pa.field(name, _arrow_type(annotation))


@cache
def record_schema() -> pa.Schema:
    """Return the Arrow schema of a metadata table: one field for each `Record` field, in their order."""
    return pa.schema([_arrow_field(name, info.annotation) for name, info in Record.model_fields.items()])
