"""Types of fields that several documents have."""

from typing import Annotated

from pydantic import AfterValidator, Field

from perturb.sinks.stores.base import KeyRefused, check_key

Hex64 = Field(pattern=r"^[0-9a-f]{64}$")


def _storable(key: str) -> str:
    # A document may be anybody's: a key that no store takes is a fault of the document, not of the store.
    try:
        return check_key(key)
    except KeyRefused as error:
        raise ValueError(str(error)) from error


StoreKey = Annotated[str, AfterValidator(_storable)]
"""A key, or a part of one, that a store takes."""
