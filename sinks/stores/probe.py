"""Whether a store can be written to, found out by writing."""

import secrets

from perturb.sinks.stores.base import Store


def check_writable(store: Store) -> bool:
    """Writes an object and removes it; whether a second writer of it was refused, as it must be.

    Raises StoreError where the store can't be written to.
    """
    key = f".probe/{secrets.token_hex(8)}"
    store.put_new(key, b"first writer")
    try:
        return not store.put_new(key, b"second writer")
    finally:
        store.delete(key)
