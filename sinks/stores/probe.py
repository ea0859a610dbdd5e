"""Checks, by writing, that a store can be written to and that it keeps conditional writes."""

import secrets

from perturb.schemas.errors import StoreError
from perturb.sinks.stores.base import Store


def conditional_writes_hold(store: Store) -> bool:
    """Return whether the store refuses a second create-only write of one key, as the corpus relies on.

    Creates an object under `.probe/`, tries to create it again with other bytes, and deletes it: four requests on S3.
    Raises StoreError when the store cannot be written to.
    """
    key = f".probe/{secrets.token_hex(8)}"
    store.put_new(key, b"first writer")
    try:
        return not store.put_new(key, b"second writer")
    finally:
        store.delete(key)


def require_conditional_writes(store: Store, *, single_writer: bool) -> None:
    """Check that writing to the store is safe; `single_writer` allows a store without conditional writes.

    Raises StoreError when the store cannot be written to, and when it keeps no conditional writes and may have more
    than one writer.
    """
    if not conditional_writes_hold(store) and not single_writer:
        raise StoreError(
            f"store {store.url} keeps no conditional writes, so that two writers could overwrite each other's rounds; "
            "use a service that honours If-None-Match, or set single_writer = true (PERTURB_SINGLE_WRITER=true) if "
            "only one process ever writes to it"
        )
