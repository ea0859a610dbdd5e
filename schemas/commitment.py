"""A miner's commitment to a network: where its weights will be, and a digest that no other hotkey can use."""

import hashlib
import json
import re
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perturb.schemas.canonical_json import canonical_json

# A field of the chain's commitments holds so many bytes.
MAX_BYTES = 128
# What RFC 3986 allows in an address, less square brackets. Parsers disagree about a backslash, and about what stands in
# front of an @.
_ADDRESS = re.compile(r"https?://[A-Za-z0-9._~:/?#!$&'()*+,;=%-]+")
_ACCEPTED = (
    f'canonical JSON of at most {MAX_BYTES} bytes: {{"h":"the first 32 hex digits of sha256(weights || hotkey)",'
    '"u":"https://…"}'
)


class CommitmentRefused(ValueError):
    """A text that is not a commitment; the message says what is wrong and what is accepted."""


class ModelCommitment(BaseModel):
    """`u` is the address of the weights, `h` the first 32 hex digits of sha256(weights || hotkey as ss58 text)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    h: str = Field(pattern=r"^[0-9a-f]{32}$")
    u: str

    @classmethod
    def of(cls, weights: bytes, *, hotkey: str, url: str) -> Self:
        """Return the commitment of `hotkey` to a file of weights. Raises CommitmentRefused for an unusable URL."""
        text = cls.model_construct(h=commitment_digest(weights, hotkey), u=url).text()
        if (excess := len(text.encode(errors="replace")) - MAX_BYTES) > 0:
            raise CommitmentRefused(
                f"an address of {len(url)} characters does not fit into a commitment; accepted: at most "
                f"{len(url) - excess}"
            )
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the commitment that `text` is. Raises CommitmentRefused for anything but what `text()` returns."""
        if len(text.encode(errors="replace")) > MAX_BYTES:
            raise CommitmentRefused(f"the commitment has more than {MAX_BYTES} bytes; accepted: {_ACCEPTED}")
        try:
            commitment = cls.model_validate(json.loads(text))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "it"
            raise CommitmentRefused(f"the commitment: {place}: {first['msg']}; accepted: {_ACCEPTED}") from error
        except (ValueError, RecursionError) as error:
            raise CommitmentRefused(f"the commitment is not JSON; accepted: {_ACCEPTED}") from error
        if not is_address(commitment.u):
            raise CommitmentRefused(
                f"{commitment.u!r} is not an address; accepted: https:// or http:// without user information"
            )
        if commitment.text() != text:
            raise CommitmentRefused(f"the commitment is not canonical; accepted: {_ACCEPTED}")
        return commitment

    def text(self) -> str:
        """Return the commitment as it stands on the chain."""
        return canonical_json(self.model_dump()).decode()

    def is_of(self, weights: bytes, hotkey: str) -> bool:
        """Return whether `hotkey` committed to these weights."""
        return self.h == commitment_digest(weights, hotkey)


class Committed(BaseModel):
    """What a hotkey committed to, in a text that was not parsed.

    `at` is the block of the commitment; on the local network, which has no blocks, seconds since 1970.
    """

    model_config = ConfigDict(frozen=True)

    hotkey: str
    text: str
    at: int = Field(ge=0)


def is_address(url: str) -> bool:
    """Return whether a text is an http or https address without user information and without unusual characters."""
    return _ADDRESS.fullmatch(url) is not None


def commitment_digest(weights: bytes, hotkey: str) -> str:
    """Return the first 32 hex digits of sha256(weights || hotkey), the hotkey as its ss58 text."""
    digest = hashlib.sha256(weights)
    digest.update(hotkey.encode())
    return digest.hexdigest()[:32]
