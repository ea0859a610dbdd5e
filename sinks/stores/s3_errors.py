"""Classifies S3 errors: damage that another try may cure, a missing or taken key, or a sentence for the operator."""

from botocore.exceptions import (
    ClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ResponseStreamingError,
    SSLError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from perturb.schemas.errors import StoreError
from perturb.sinks.stores.base import ObjectCorrupt

# Codes of a service that received other bytes than announced, or two concurrent writes of one key.
_DAMAGED = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InvalidDigest",
    "OperationAborted",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_ASK_OPERATOR = {
    "NoSuchBucket": "the bucket does not exist; create it, or name another one in PERTURB_STORE",
    "InvalidAccessKeyId": "the service does not know the access key; check AWS_ACCESS_KEY_ID or the AWS profile",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY or the AWS profile",
    "AccessDenied": "access is denied; the key needs to list, read, write and delete below the prefix",
    "ExpiredToken": "the session token has expired; renew the credentials",
    "EntityTooLarge": "an object is larger than the service accepts; lower seal.shard_bytes",
    "QuotaExceeded": "the quota is used up; free some space, then run the same command again",
    "InsufficientCapacity": "the service is full; free some space, then run the same command again",
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it, then run the same command again",
}


class HeaderRefused(StoreError):
    """The service refuses a header of a write. It is the checksum, if the write succeeds without it."""


def _code(error: Exception) -> tuple[str, int]:
    if not isinstance(error, ClientError):
        return "", 0
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return error.response.get("Error", {}).get("Code", ""), status


def is_missing(error: Exception) -> bool:
    """Return whether the object does not exist. A missing bucket is a mistake of the operator instead."""
    code, status = _code(error)
    return status == 404 and code != "NoSuchBucket"


def is_taken(error: Exception) -> bool:
    """Return whether a create-only write found its key taken."""
    code, status = _code(error)
    return status == 412 or code == "PreconditionFailed"


def worth_another_try(error: Exception) -> bool:
    """Return whether another try may succeed, for the errors that boto3 does not retry itself.

    boto3 retries lost connections, timeouts, throttling and 5xx answers. What is left is damage on the way: bodies that
    arrive incomplete or changed, and answers that cannot be parsed.
    """
    if isinstance(error, (ObjectCorrupt, IncompleteReadError, ResponseStreamingError, ResponseParserError, HTTPError)):
        return True
    code, status = _code(error)
    return code in _DAMAGED or (status == 400 and code in ("", "400"))


def sentence(error: Exception, url: str) -> StoreError:
    """Return one sentence for the operator, without secrets and without the service's own message."""
    code, status = _code(error)
    operation = error.operation_name if isinstance(error, ClientError) else ""
    if code == "NotImplemented" or status == 501:
        if operation == "PutObject":
            return StoreError(
                f"store {url}: the service does not implement a part of creating objects, either conditions "
                "(If-None-Match), without which it cannot hold a corpus, or checksums; to leave out checksums, set "
                "s3.checksums = 'never'"
            )
        return StoreError(f"store {url}: the service does not implement the request {operation}; use one that does")
    if code in ("InvalidArgument", "InvalidRequest") and operation == "PutObject":
        return HeaderRefused(
            f"store {url}: the service refuses a header of the request ({code}); "
            "set s3.checksums = 'never' (PERTURB_S3__CHECKSUMS=never) to leave out checksums"
        )
    if code == "PermanentRedirect" or status == 301:
        return StoreError(f"store {url}: the bucket is in another region; set s3.region to it")
    if code in _ASK_OPERATOR:
        return StoreError(f"store {url}: {_ASK_OPERATOR[code]}")
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        hint = "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return StoreError(f"store {url}: {hint}")
    if status == 403:
        return StoreError(
            f"store {url}: access is denied; check the credentials and what they may do (without permission to list, "
            "services deny objects that do not exist)"
        )
    if isinstance(error, ParamValidationError):
        return StoreError(f"store {url}: S3 does not accept the bucket's name; write s3://bucket/prefix")
    if isinstance(error, SSLError):
        return StoreError(
            f"store {url}: the service's certificate is not trusted; set s3.ca_bundle to the file of its authority"
        )
    if status == 416:
        return ObjectCorrupt(f"store {url}: an object ends before the requested range; restore it from a copy")
    if 400 <= status < 500 and status not in (408, 429):
        # An answer to HEAD has no body, so that its code is the status again.
        return StoreError(
            f"store {url}: the service refuses the request {operation} ({code or status}); check the credentials and "
            "whether they have expired, this machine's clock, s3.region and s3.endpoint_url"
        )
    if code or status:
        return StoreError(f"store {url}: the service answered {code or status}; run the same command again later")
    return StoreError(
        f"store {url}: no answer ({type(error).__name__}); check s3.endpoint_url and the network, then run again"
    )
