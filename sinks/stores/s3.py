"""S3 and compatible services, through boto3. Credentials come from boto3's own chain."""

import base64
import contextlib
import hashlib
import logging
import random
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from typing import IO, Any, TypeVar, cast
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from perturb.schemas.errors import StoreError
from perturb.schemas.settings import S3Settings
from perturb.sinks.stores.base import (
    Buffer,
    Entry,
    KeyTaken,
    ObjectCorrupt,
    ObjectMissing,
    ObjectWriter,
    Store,
    check_key,
    closing_writer,
)
from perturb.sinks.stores.own_keys import is_own_key, is_own_segment
from perturb.sinks.stores.s3_errors import HeaderRefused, is_missing, is_taken, sentence, worth_another_try

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

# Metadata of each object that holds its digest, because not every service's ETag is a digest.
_DIGEST = "sha256"
# Tries of one request whose answer arrives damaged, and the first pause between them, which doubles.
_TRIES = 6
_PAUSE_S = 0.2
_THREADS = 8
_SPOOL_BYTES = 4 * 2**20
# Ranges with a smaller gap are fetched as one, because a request costs about as much as reading the gap.
_GAP_BYTES = 64 * 2**10
_JOINED_BYTES = 8 * 2**20


class S3Store(Store):
    """Objects below `s3://bucket/prefix`. Each object is one PUT (up to 5 GiB), so it exists as a whole or not at all.

    `timeout_s` is how long an answer may take before the request is retried.
    """

    def __init__(self, url: str, settings: S3Settings, *, timeout_s: float = 30):
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise StoreError(f"store {url!r} has no bucket; write s3://bucket/prefix")
        endpoint = urlsplit(settings.endpoint_url or "")
        if endpoint.netloc.startswith(f"{bucket}.") or endpoint.path.rpartition("/")[2] == bucket:
            raise StoreError(
                f"store {url}: s3.endpoint_url = {settings.endpoint_url} names the bucket too; leave it out there"
            )
        self.url = url
        self._bucket = bucket
        self._prefix = check_key(prefix.strip("/")) + "/" if prefix.strip("/") else ""
        self._settings = settings
        self._timeout_s = timeout_s
        self._sends_checksums = settings.checksums != "never"

    # boto3 makes the class of its client at run time, so that there is no type to name.
    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        chosen = self._settings
        checksums = "when_required" if chosen.checksums == "never" else chosen.checksums
        config = Config(
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
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
        """Run a request, and run it again when its answer was damaged on the way.

        boto3 retries lost connections, timeouts, throttling and 5xx answers itself (`s3.max_attempts`). The loop here
        covers only the errors that boto3 does not retry, so that the two do not multiply. Pauses are random up to a
        limit that doubles ("full jitter"), so that clients that failed together do not return together.

        Raises ObjectMissing, KeyTaken, ObjectCorrupt, and StoreError for any other error.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                return action()
            except (BotoCoreError, ClientError, HTTPError, ObjectCorrupt) as error:
                if attempt == _TRIES or not worth_another_try(error):
                    raise self._translated(error, key) from error
                log.info("%s %s: %s; trying again", self.url, key, type(error).__name__)
                time.sleep(random.uniform(0, _PAUSE_S * 2 ** (attempt - 1)))
        raise AssertionError("unreachable")

    def _translated(self, error: Exception, key: str) -> StoreError:
        if isinstance(error, ObjectCorrupt):
            return error
        if is_missing(error):
            return ObjectMissing(f"{key} does not exist in store {self.url}")
        if is_taken(error):
            return KeyTaken(f"{key} exists already in store {self.url}")
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
            raise StoreError(
                f"{key} cannot be written to a temporary file: {error.strerror}; free space in $TMPDIR"
            ) from error

    def put_new(self, key: str, data: Buffer) -> bool:
        return self._upload(key, bytes(data), len(data), hashlib.sha256(data).hexdigest(), new=True)

    def put(self, key: str, data: Buffer) -> None:
        self._upload(key, bytes(data), len(data), hashlib.sha256(data).hexdigest(), new=False)

    def _upload(self, key: str, body: "bytes | IO[bytes]", size: int, sha256: str, *, new: bool) -> bool:
        """Write an object with one PUT; return False when `new` is set and the key is taken by other bytes.

        An answer can get lost after the object was written. The retry then finds the key taken by this very write,
        which the digest stored with the object shows.
        """
        arguments: dict[str, Any] = self._at(key) | {
            "ContentLength": size,
            "Metadata": {_DIGEST: sha256},
        }
        # Services that know this header compare it with what arrived.
        checksum = {"ChecksumSHA256": base64.b64encode(bytes.fromhex(sha256)).decode()}
        if new:
            arguments["IfNoneMatch"] = "*"

        def request() -> None:
            if not isinstance(body, bytes):
                body.seek(0)
            self._client.put_object(Body=body, **arguments, **(checksum if self._sends_checksums else {}))

        try:
            try:
                self._call(request, key)
            except HeaderRefused:
                if self._settings.checksums != "when_required" or not self._sends_checksums:
                    raise
                log.warning("%s refuses checksums of what is written; reading compares them", self.url)
                self._sends_checksums = False
                self._call(request, key)
        except KeyTaken:
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
            # The bytes arrived undamaged when they have the digest stored with the object or the one that the caller
            # expects: the metadata of an object that another program copied may have no digest, or a wrong one.
            if digest not in (answer["Metadata"].get(_DIGEST, digest), sha256):
                raise ObjectCorrupt(f"{key} does not arrive as it was written; check the network, then run again")
            return data, digest

        data, digest = self._call(request, key)
        # These bytes are stored so. If the caller expects others, another request would not help.
        if sha256 is not None and digest != sha256:
            raise ObjectCorrupt(
                f"{key} differs from what was written, whose sha256 is {sha256}; restore it from a copy"
            )
        return data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""

        def request() -> bytes:
            span = f"bytes={offset}-{offset + length - 1}"
            answer = self._client.get_object(Range=span, **self._at(key))
            total = int(answer.get("ContentRange", "/0").rpartition("/")[2])
            data = _read(answer)
            if len(data) != min(length, max(0, total - offset)):
                raise ObjectCorrupt(f"{key} arrives incomplete; check the network, then run again")
            return data

        data = self._call(request, key)
        if len(data) != length:
            raise ObjectCorrupt(f"{key} is truncated: it ends before byte {offset + length}; restore it from a copy")
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

    def _pages(self, **arguments: str) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            page: dict[str, Any] = self._call(
                partial(self._client.list_objects_v2, Bucket=self._bucket, **arguments, **token)
            )
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def entries(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
        start = {"StartAfter": self._prefix + after} if after else {}
        for page in self._pages(Prefix=self._prefix + prefix, **start):
            for item in page.get("Contents", ()):
                key = item["Key"].removeprefix(self._prefix)
                if is_own_key(key):
                    yield Entry(key, item["Size"], item["LastModified"])

    def folders(self, prefix: str) -> list[str]:
        base = self._prefix + prefix
        found = [
            item["Prefix"].removeprefix(base).rstrip("/")
            for page in self._pages(Prefix=base, Delimiter="/")
            for item in page.get("CommonPrefixes", ())
        ]
        return sorted(name for name in found if is_own_segment(name))

    # Deleting, links, unfinished uploads

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
    """Return sorted `(offset, length)` spans that cover all ranges, with neighbours joined up to a few MiB."""
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
    starts = [offset for offset, _ in joined]
    found = []
    for offset, length in ranges:
        place = bisect_right(starts, offset) - 1
        begin = offset - starts[place]
        found.append(pieces[place][begin : begin + length])
    return found
