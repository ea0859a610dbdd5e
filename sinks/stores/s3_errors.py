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
    "NotImplemented": "the service cannot create objects conditionally (If-None-Match); use one that can",
    "EntityTooLarge": "an object is larger than the service accepts; lower seal.shard_bytes",
    "QuotaExceeded": "the quota is used up; free some space, then run the same command again",
    "InsufficientCapacity": "the service is full; free some space, then run the same command again",
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it, then run the same command again",
}


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
    if code in _ASK_OPERATOR:
        return StoreError(f"store {url}: {_ASK_OPERATOR[code]}")
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        hint = "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return StoreError(f"store {url}: {hint}")
    if status == 403:
        return StoreError(f"store {url}: access is denied; check the credentials and what they may do")
    if isinstance(error, ParamValidationError):
        return StoreError(f"store {url}: S3 does not accept the bucket's name; write s3://bucket/prefix")
    if isinstance(error, SSLError):
        return StoreError(
            f"store {url}: the service's certificate is not trusted; set s3.ca_bundle to the file of its authority"
        )
    if status == 416:
        return ObjectCorrupt(f"store {url}: an object ends before the requested range; restore it from a copy")
    if code or status:
        return StoreError(f"store {url}: the service answered {code or status}; run the same command again later")
    return StoreError(
        f"store {url}: no answer ({type(error).__name__}); check s3.endpoint_url and the network, then run again"
    )
