"""The bucket policy under which each tier's subscribers read their own export and nothing else.

Nothing is denied explicitly: who is named nowhere may do nothing, and the operator's own rights stay as they are.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from perturb.schemas.errors import SettingsError
from perturb.tasks.export.operator_state import tier_folder

_VERSION = "2012-10-17"


def bucket_policy(
    store_url: str, tiers: Sequence[str], *, account: str = "", principals: Mapping[str, str] | None = None
) -> bytes:
    """The policy as JSON, for `put-bucket-policy`.

    `principals` maps tiers to ARNs; the others get `arn:aws:iam::{account}:user/{tier}`: a user of the tier's name.
    `account` is AWS' 12 digits, nothing on Ceph, 000000000000 on SeaweedFS.
    Raises SettingsError for a store that is no bucket, or a principal of no tier.
    """
    if not store_url.startswith("s3://"):
        raise SettingsError(f"store {store_url!r} is no bucket; policies are for s3://bucket/prefix (PERTURB_STORE)")
    if not re.fullmatch(r"([0-9]{12})?", account):
        raise SettingsError(f"account {account!r} is no AWS account; write its 12 digits, or nothing for Ceph")
    given = dict(principals or {})
    if strangers := sorted(set(given) - set(tiers)):
        raise SettingsError(
            f"there is no tier {', '.join(strangers)} to give a principal; there are {', '.join(tiers)}"
        )
    bucket, _, prefix = store_url.removeprefix("s3://").strip("/").partition("/")
    base = f"{prefix}/" if prefix else ""
    statements: list[dict[str, Any]] = []
    for tier in tiers:
        who = {"AWS": [given.get(tier, f"arn:aws:iam::{account}:user/{tier}")]}
        folder = base + tier_folder(tier)
        name = "".join(part.capitalize() for part in tier.split("-"))
        statements += [
            {
                "Sid": f"Read{name}",
                "Effect": "Allow",
                "Principal": who,
                "Action": ["s3:GetObject"],
                "Resource": [f"arn:aws:s3:::{bucket}/{folder}*"],
            },
            {
                "Sid": f"List{name}",
                "Effect": "Allow",
                "Principal": who,
                "Action": ["s3:ListBucket"],
                "Resource": [f"arn:aws:s3:::{bucket}"],
                # Ends in a slash: a tier whose name begins like another's is still another prefix.
                "Condition": {"StringLike": {"s3:prefix": [f"{folder}*"]}},
            },
        ]
    return json.dumps({"Version": _VERSION, "Statement": statements}, indent=2).encode() + b"\n"
