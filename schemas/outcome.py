"""The outcome of a response: `accepted`, or the named reason of its refusal. Public values of the `outcome` column."""

from enum import StrEnum


class Outcome(StrEnum):
    """Outcomes in the order in which a response is checked. HTTP failures are `http_` plus the status."""

    ACCEPTED = "accepted"
    # On the wire (`perturb.subnet`)
    NOT_ASKED = "not_asked"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    SLOW_BODY = "slow_body"
    CONNECTION_LOST = "connection_lost"
    REDIRECT = "redirect"
    BAD_HEADERS = "bad_headers"
    ENCODED = "encoded"
    TOO_LARGE = "too_large"
    UNSIGNED = "unsigned"
    WRONG_HOTKEY = "wrong_hotkey"
    BAD_SIGNATURE = "bad_signature"
    REPLAYED = "replayed"
    WRONG_TASK = "wrong_task"
    BAD_BODY = "bad_body"
    # Of the gates (`perturb.tasks.verify.gates`), in their order: the file
    NOT_PNG = "not_png"
    WRONG_MODE = "wrong_mode"
    WRONG_SIZE = "wrong_size"
    EXTRA_CHUNKS = "extra_chunks"
    TRAILING_DATA = "trailing_data"
    CORRUPT = "corrupt"
    DECODER_FAILED = "decoder_failed"
    # the pixels
    DUPLICATE = "duplicate"
    UNCHANGED = "unchanged"
    LINF_TOO_SMALL = "linf_too_small"
    LINF_TOO_LARGE = "linf_too_large"
    PSNR_TOO_LOW = "psnr_too_low"
    SSIM_TOO_LOW = "ssim_too_low"
    # the label and its meaning
    NO_FLIP = "no_flip"
    SEMANTIC_MATCH = "semantic_match"


def http_outcome(status: int) -> str:
    """Return the outcome of an HTTP status other than 200, e.g. `http_503`."""
    return f"http_{status}"
