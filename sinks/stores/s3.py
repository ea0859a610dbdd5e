"""S3 and what is compatible with it, through boto3. Credentials come from boto3's own chain."""

import base64
import contextlib
import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any, TypeVar, cast

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from urllib3.exceptions import HTTPError

from perturb.schemas.errors import StoreError
from perturb.schemas.settings import S3Settings
from perturb.sinks.stores.base import (
    Buffer,
    Entry,
    ObjectCorrupt,
    ObjectMissing,
    ObjectWriter,
    Store,
    check_key,
    closing_writer,
)
from perturb.sinks.stores.s3_errors import is_missing, is_taken, sentence, worth_another_try

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

# The digest travels with the object, because ETags are no digests everywhere.
_DIGEST = "sha256"
_TRIES = 6
_THREADS = 8
_SPOOL_BYTES = 4 * 2**20
# Ranges closer than this are fetched as one: a request costs about as much as reading over the gap.
_GAP_BYTES = 64 * 2**10
_JOINED_BYTES = 8 * 2**20


class S3Store(Store):
    """Objects below `s3://bucket/prefix`. Every object is one PUT (up to 5 GiB), so it is whole or not there.

    `timeout_s` is how long an answer may take before the request is tried again.
    """

    def __init__(self, url: str, settings: S3Settings, *, timeout_s: float = 30):
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise StoreError(f"store {url!r} names no bucket; write s3://bucket/prefix")
        self.url = url
        self._bucket = bucket
        self._prefix = check_key(prefix.strip("/")) + "/" if prefix.strip("/") else ""
        self._settings = settings
        self._timeout_s = timeout_s

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        chosen = self._settings
        config = Config(
            request_checksum_calculation=chosen.checksums,
            response_checksum_validation=chosen.checksums,
            retries={"mode": "standard", "total_max_attempts": chosen.max_attempts},
            connect_timeout=5,
            read_timeout=self._timeout_s,
            max_pool_connections=4 * _THREADS,
            s3={"addressing_style": chosen.addressing_style},
        )
        try:
            return boto3.session.Session().client(
                "s3",
                endpoint_url=chosen.endpoint_url,
                region_name=chosen.region,
                verify=str(chosen.ca_bundle) if chosen.ca_bundle else None,
                config=config,
            )
        except (BotoCoreError, ValueError) as error:
            raise sentence(error, self.url) from error

    def _call(self, action: Callable[[], _Result], key: str = "") -> _Result:
        """Run a request, again where the answer was damaged on its way; what is left becomes a StoreError."""
        for attempt in range(1, _TRIES + 1):
            try:
                return action()
            except (BotoCoreError, ClientError, HTTPClientError, HTTPError, ObjectCorrupt) as error:
                if attempt == _TRIES or not worth_another_try(error):
                    raise self._translated(error, key) from error
                log.info("%s %s: %s; trying again", self.url, key, type(error).__name__)
                time.sleep(0.05 * 2**attempt)
        raise AssertionError("unreachable")

    def _translated(self, error: Exception, key: str) -> Exception:
        if is_missing(error):
            return ObjectMissing(f"{key} is not in store {self.url}")
        if isinstance(error, ObjectCorrupt) or is_taken(error):
            return error
        return sentence(error, self.url)

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    # Writing

    @contextmanager
    def create(self, key: str) -> Iterator[ObjectWriter]:
        check_key(key)
        try:
            with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as file, closing_writer(file) as writer:
                yield writer
                writer.drain()
                writer.won = self._upload(key, file, writer.size, writer.sha256, new=True)
        except OSError as error:
            raise StoreError(f"{key} could not be staged: {error.strerror}; free space in $TMPDIR") from error

    def put_new(self, key: str, data: Buffer) -> bool:
        return self._upload(key, bytes(data), len(data), hashlib.sha256(data).hexdigest(), new=True)

    def put(self, key: str, data: Buffer) -> None:
        self._upload(key, bytes(data), len(data), hashlib.sha256(data).hexdigest(), new=False)

    def _upload(self, key: str, body: "bytes | IO[bytes]", size: int, sha256: str, *, new: bool) -> bool:
        """One PUT. True unless the key is taken by other bytes.

        An answer can get lost after the object was written. The retry then finds the key taken, by ourselves: the
        digest stored with the object tells.
        """
        arguments: dict[str, Any] = self._at(key) | {
            "ContentLength": size,
            "Metadata": {_DIGEST: sha256},
            # Services that know this header compare it with what arrived.
            "ChecksumSHA256": base64.b64encode(bytes.fromhex(sha256)).decode(),
        }
        if new:
            arguments["IfNoneMatch"] = "*"

        def request() -> None:
            if not isinstance(body, bytes):
                body.seek(0)
            self._client.put_object(Body=body, **arguments)

        try:
            self._call(request, key)
        except ClientError:
            # Only "the key is taken" comes through untranslated.
            return self._digest(key) == sha256
        return True

    def _digest(self, key: str) -> str:
        answer = self._call(lambda: self._client.head_object(**self._at(key)), key)
        if stated := answer["Metadata"].get(_DIGEST):
            return str(stated)
        return hashlib.sha256(self.get(key)).hexdigest()

    # Reading

    def get(self, key: str, *, sha256: str | None = None) -> bytes:
        def request() -> tuple[bytes, str]:
            answer = self._client.get_object(**self._at(key))
            data = _read(answer)
            digest = hashlib.sha256(data).hexdigest()
            if digest not in (sha256, answer["Metadata"].get(_DIGEST, digest)):
                raise ObjectCorrupt(f"{key} does not arrive as it was written; check the network, then run again")
            return data, digest

        data, digest = self._call(request, key)
        # What arrived is what lies there; if that is not what was expected, asking again would not help.
        if sha256 is not None and digest != sha256:
            raise ObjectCorrupt(f"{key} is not what was written: its sha256 should be {sha256}; restore it from a copy")
        return data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""

        def request() -> bytes:
            asked = f"bytes={offset}-{offset + length - 1}"
            answer = self._client.get_object(Range=asked, **self._at(key))
            total = int(answer.get("ContentRange", "/0").rpartition("/")[2])
            data = _read(answer)
            if len(data) != min(length, max(0, total - offset)):
                raise ObjectCorrupt(f"{key} does not arrive whole; check the network, then run again")
            return data

        data = self._call(request, key)
        if len(data) != length:
            raise ObjectCorrupt(f"{key} ends before byte {offset + length}; it was cut: restore it from a copy")
        return data

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        joined = join_ranges(ranges)
        with ThreadPoolExecutor(_THREADS) as pool:
            pieces = list(pool.map(lambda span: self.get_range(key, *span), joined))
        return _split(ranges, joined, pieces)

    def head(self, key: str) -> Entry | None:
        try:
            answer = self._call(lambda: self._client.head_object(**self._at(key)), key)
        except ObjectMissing:
            return None
        return Entry(key, answer["ContentLength"], answer["LastModified"])

    def _pages(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            asked = {"Bucket": self._bucket, **arguments, **token}
            page = self._call(lambda asked=asked: self._client.list_objects_v2(**asked))  # type: ignore[misc]
            yield cast(dict[str, Any], page)
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def entries(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
        start = {"StartAfter": self._prefix + after} if after else {}
        for page in self._pages(Prefix=self._prefix + prefix, **start):
            for item in page.get("Contents", ()):
                yield Entry(item["Key"].removeprefix(self._prefix), item["Size"], item["LastModified"])

    def folders(self, prefix: str) -> list[str]:
        base = self._prefix + prefix
        found = [
            item["Prefix"].removeprefix(base).rstrip("/")
            for page in self._pages(Prefix=base, Delimiter="/")
            for item in page.get("CommonPrefixes", ())
        ]
        return sorted(found)

    # The rest

    def delete(self, key: str) -> None:
        with contextlib.suppress(ObjectMissing):
            self._call(lambda: self._client.delete_object(**self._at(key)), key)

    def presign(self, key: str, *, expires_s: int = 3600) -> str:
        return str(
            self._call(
                lambda: self._client.generate_presigned_url("get_object", Params=self._at(key), ExpiresIn=expires_s)
            )
        )

    def unfinished(self) -> list[Entry]:
        answer = self._call(lambda: self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=self._prefix))
        return [
            Entry(f"{upload['Key'].removeprefix(self._prefix)}?uploadId={upload['UploadId']}", 0, upload["Initiated"])
            for upload in answer.get("Uploads", ())
        ]

    def discard(self, unfinished: Entry) -> None:
        key, _, upload = unfinished.key.rpartition("?uploadId=")
        with contextlib.suppress(ObjectMissing):
            self._call(lambda: self._client.abort_multipart_upload(UploadId=upload, **self._at(key)), key)


def _read(answer: dict[str, Any]) -> bytes:
    with answer["Body"] as body:
        return cast(bytes, body.read())


def join_ranges(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted `(offset, length)` spans that cover all ranges, neighbours joined up to a few MiB."""
    joined: list[tuple[int, int]] = []
    for offset, length in sorted(ranges):
        if joined:
            start, size = joined[-1]
            end = max(start + size, offset + length)
            if offset - (start + size) <= _GAP_BYTES and end - start <= max(_JOINED_BYTES, size):
                joined[-1] = (start, end - start)
                continue
        joined.append((offset, length))
    return joined


def _split(
    ranges: Sequence[tuple[int, int]], joined: Sequence[tuple[int, int]], pieces: Sequence[bytes]
) -> list[bytes]:
    from bisect import bisect_right

    starts = [offset for offset, _ in joined]
    found = []
    for offset, length in ranges:
        place = bisect_right(starts, offset) - 1
        begin = offset - starts[place]
        found.append(pieces[place][begin : begin + length])
    return found
