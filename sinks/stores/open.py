"""Opens the store that a URL names."""

from perturb.schemas.errors import StoreError
from perturb.schemas.settings import S3Settings, parse_store
from perturb.sinks.stores.base import Store


def open_store(url: str, s3: S3Settings | None = None) -> Store:
    """Return the store at `url`: a directory, `file:///DIR`, or `s3://bucket/prefix`. Opening creates nothing.

    Raises StoreError for any other scheme.
    """
    try:
        place = parse_store(url)
    except ValueError as error:
        raise StoreError(f"store {url!r} is not supported; {error}") from error
    if place.startswith("s3://"):
        from perturb.sinks.stores.s3 import S3Store

        return S3Store(place, s3 or S3Settings())
    from perturb.sinks.stores.directory import DirectoryStore

    return DirectoryStore(place)
