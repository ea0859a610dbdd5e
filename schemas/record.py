"""The record: one row a response, accepted or refused. Its column names are the public vocabulary.

`Record` is the one definition; the Arrow schema, the columns that tiers may grant and the cards' column
descriptions are all derived from it.
"""

import hashlib
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from perturb.schemas.challenge import Challenge
from perturb.schemas.response import Response
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
    """One response and everything known about it. Every column is always present; optional ones may be null."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # identity
    record_id: str = _column("32 hex digits derived from task, miner and answer; also the sample key in tar shards")
    round_id: str = _column("the production round, sortable by time")
    task_id: str = _column("the challenge's id on the wire")
    created_at: datetime = _column("when the challenge was made, UTC")
    netuid: int = _column("Bittensor subnet")
    block: int | None = _column("chain block at which the neurons were read; null off chain")
    validator_hotkey: str = _column("ss58 address of the validator that asked")
    # source
    source: str = _column("where the clean photograph came from")
    source_id: str = _column("the photograph's id at its source")
    source_url: str | None = _column("where the source shows the photograph")
    author: str | None = _column("photographer")
    license: str | None = _column("the photograph's licence")
    subject: str | None = _column("what the source says the photograph shows")
    # challenge
    true_label: int = _column("ImageNet-1k index of the clean image's label")
    true_label_name: str = _column("its English name")
    synset: str | None = _column("its WordNet id")
    true_class: int | None = _column("the class the source knows, where it does; equals true_label then")
    clean_confidence: float = _column("softmax probability of the true label on the clean image")
    clean_margin: float = _column("true logit minus best other logit on the clean image")
    subject_score: float | None = _column("the judge's score that the label belongs to the subject")
    classifier: str = _column("timm name of the attacked classifier")
    classifier_sha256: str = _column("sha256 of its weights")
    judge: str = _column("the language model that judged, or 'none'")
    judge_sha256: str | None = _column("sha256 of its weights")
    epsilon_min: float = _column("smallest allowed L-inf, 0..1")
    epsilon: float = _column("largest allowed L-inf, 0..1")
    min_psnr: float = _column("smallest allowed PSNR, dB")
    min_ssim: float = _column("smallest allowed SSIM")
    min_margin: float = _column("logit margin below which nothing is earned")
    norm_type: str = _column("the norm that epsilon bounds")
    timeout_ms: int = _column("time a miner had")
    height: int = _column("pixels")
    width: int = _column("pixels")
    # response
    miner_uid: int = _column("the miner's uid at the time")
    miner_hotkey: str = _column("the miner's ss58 address")
    response_ms: float = _column("from sending to the last byte, milliseconds, monotonic clock")
    outcome: str = _column("'accepted', or the named reason of the refusal")
    detail: str | None = _column("the refusal in one sentence")
    body_sha256: str | None = _column("sha256 of the bytes that the miner sent")
    request_nonce: str | None = _column("nonce of the signed request that this answers")
    miner_signature: str | None = _column("sr25519 signature over task, nonce, both hotkeys and body digest")
    # verdict
    adversarial_label: int | None = _column("what the classifier sees in the perturbed image")
    adversarial_label_name: str | None = _column("its English name")
    adversarial_confidence: float | None = _column("its softmax probability")
    margin: float | None = _column("best other logit minus true logit on the perturbed image")
    linf: float | None = _column("max|a-b| on the 0..1 scale")
    linf_levels: int | None = _column("max|a-b| in 8-bit levels")
    l0: int | None = _column("changed channel values")
    l0_pixels: int | None = _column("changed pixels")
    l2: float | None = _column("Euclidean norm of the perturbation on the 0..1 scale")
    rmse: float | None = _column("root mean square of the perturbation on the 0..1 scale")
    psnr: float | None = _column("dB, data range 255")
    ssim: float | None = _column("structural similarity")
    ssim_definition: str | None = _column("which SSIM")
    semantic_score: float | None = _column("the judge's score that both labels are the same kind of thing")
    semantic_mismatch: bool | None = _column("whether the labels name different things")
    duplicate_of: str | None = _column("record_id of the faster answer with the same pixels")
    near_duplicate_of: str | None = _column("record_id of a faster answer with nearly the same perturbation")
    persists: Persistence | None = _column("whether the flip survives re-encoding and resampling")
    transfer: tuple[Transfer, ...] | None = _column("what other classifiers say about the perturbed image")
    # score
    quality: float = _column("how small the perturbation is, 0..1")
    speed: float = _column("how fast the answer was, 0..1")
    score: float = _column("0.7 quality + 0.3 speed; 0 where refused")
    policy: str = _column("name and version of the scoring policy")
    # pixels
    original_sha256: str = _column("pixel identity of the clean image")
    perturbed_sha256: str | None = _column("pixel identity of the perturbed image")
    original_shard: str | None = _column("tar that holds the clean image's PNG")
    original_offset: int | None = _column("its first byte in that tar")
    original_length: int | None = _column("its length in bytes")
    perturbed_shard: str | None = _column("tar that holds the perturbed image's PNG; null where refused")
    perturbed_offset: int | None = _column("its first byte in that tar")
    perturbed_length: int | None = _column("its length in bytes")


def record_id(task_id: str, miner_hotkey: str, answer_sha256: str | None) -> str:
    """32 hex digits from task, miner and answer (pixel identity, else body digest, else nothing)."""
    return hashlib.sha256(f"{task_id}|{miner_hotkey}|{answer_sha256 or ''}".encode()).hexdigest()[:32]


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
    """The row of one judged response, its shard pointers still empty: the writer of the shards fills them in."""
    task, origin = challenge.task, challenge.origin
    return Record(
        record_id=record_id(task.task_id, response.miner_hotkey, verdict.perturbed_sha256 or response.body_sha256),
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
        **origin.model_dump(),
        **task.model_dump(exclude={"bounds", "excluded_labels"}),
        **task.bounds.model_dump(),
        **verdict.model_dump(),
        **score.model_dump(),
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
    # Always nullable: `datasets` casts non-nullable fields away, and nullability is Record's business.
    return pa.field(name, _arrow_type(annotation))


@cache
def record_schema() -> pa.Schema:
    """The Arrow schema of a metadata table, one field for each `Record` field, in their order."""
    return pa.schema([_arrow_field(name, info.annotation) for name, info in Record.model_fields.items()])
