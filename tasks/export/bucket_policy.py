"""The S3 bucket policy that lets each tier's subscribers read their own export and nothing else.

It has no explicit denials: an account that no policy names has no rights, and the operator's rights stay as they are.
"""

import json
import re
from collections.abc import Mapping, Sequence

from perturb.schemas.errors import SettingsError
from perturb.sinks.dataset.keys import tier_folder

_VERSION = "2012-10-17"


def bucket_policy(
    store_url: str, tiers: Sequence[str], *, account: str = "", principals: Mapping[str, str] | None = None
) -> bytes:
    """Return the policy as JSON, for `put-bucket-policy`.

    `principals` maps tiers to ARNs. A tier without one is readable by the user with its name,
    `arn:aws:iam::{account}:user/{tier}`. `account` is the AWS account of 12 digits, empty on Ceph, 000000000000 on
    SeaweedFS. Raises SettingsError for a store that is not a bucket, an invalid account, and a principal of an unknown
    tier.
    """
    if not store_url.startswith("s3://"):
        raise SettingsError(f"store {store_url!r} is not a bucket; policies are for s3://bucket/prefix (PERTURB_STORE)")
    if not re.fullmatch(r"([0-9]{12})?", account):
        raise SettingsError(f"account {account!r} is not an AWS account; write its 12 digits, or '' for Ceph")
    given = dict(principals or {})
    if unknown := sorted(set(given) - set(tiers)):
        raise SettingsError(
            f"a principal is given for {', '.join(unknown)}, which is not a tier; the tiers are {', '.join(tiers)}"
        )
    bucket, _, prefix = store_url.removeprefix("s3://").strip("/").partition("/")
    base = f"{prefix}/" if prefix else ""
    statements: list[dict[str, object]] = []
    for tier in tiers:
        principal = {"AWS": [given.get(tier, f"arn:aws:iam::{account}:user/{tier}")]}
        folder = base + tier_folder(tier)
        name = "".join(part.capitalize() for part in tier.split("-"))
        statements += [
            {
                "Sid": f"Read{name}",
                "Effect": "Allow",
                "Principal": principal,
                "Action": ["s3:GetObject"],
                "Resource": [f"arn:aws:s3:::{bucket}/{folder}*"],
            },
            {
                "Sid": f"List{name}",
                "Effect": "Allow",
                "Principal": principal,
                "Action": ["s3:ListBucket"],
                "Resource": [f"arn:aws:s3:::{bucket}"],
                # It ends in a slash, so that a tier whose name begins like this one's does not match.
                "Condition": {"StringLike": {"s3:prefix": [f"{folder}*"]}},
            },
        ]
    return json.dumps({"Version": _VERSION, "Statement": statements}, indent=2).encode() + b"\n"
