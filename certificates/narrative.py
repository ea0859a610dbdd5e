"""What a certificate says in sentences. Every number is the statement's; no model writes text."""

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

_VERDICTS = {"refuted": "refuted", "not_refuted": "not refuted", "undecided": "undecided"}


def narrative(statement: Mapping[str, Any]) -> list[str]:
    """Return the sentences of the page's first screen, in order."""
    predicate = statement["predicate"]
    block = predicate["robustness"]
    plan = block["plan"]
    clean = block["cleanAccuracy"]
    drawn = f"drawn from a pool of {plan['pool']['images']} by {block['selection']['chosenBy']}"
    said = [f"{predicate['model']['name']} was attacked on {predicate['sampleSize']} of {plan['n']} images, {drawn}."]
    said.append(_clean(clean, block["labels"]))
    said += [_level(level) for level in block["levels"]]
    said += [f"Claim {claim_text(claim)}: {_claim(claim)}." for claim in predicate["claims"]]
    said.append(_severity(block["severity"]))
    if clean["limits"] is None:
        said.append(
            f"The images come from {block['clusters']} independent photographs, too few to say anything about others; "
            "no limits are given."
        )
    raised = [flag["meaning"] for flag in block["flags"]]
    said.append(f"Raised flags: {'; '.join(raised)}." if raised else "No flag is raised.")
    canary = block["canary"]
    said.append(f"The attacks found {canary['found']} of {canary['of']} planted weaknesses.")
    return said


def percent(share: str | None) -> str:
    """Return a share as `12.3 %`; `-` for None."""
    if share is None:
        return "-"
    return f"{(Decimal(share) * 100).quantize(Decimal('0.1'), ROUND_HALF_EVEN)} %"


def interval(limits: Mapping[str, str] | None) -> str:
    """Return limits as `1.0 % to 2.0 %`; empty for None."""
    return "" if limits is None else f"{percent(limits['lower'])} to {percent(limits['upper'])}"


def claim_text(claim: Mapping[str, Any]) -> str:
    """Return a claim as it was planned, such as `robust@1>=0.30`."""
    return f"{claim['metric']}{claim['comparator']}{claim['threshold']}"


def _clean(rate: Mapping[str, Any], labels: str) -> str:
    within = f" (limits {interval(rate['limits'])})" if rate["limits"] else ""
    if labels == "source":
        return f"It classified {rate['count']} of {rate['of']} unchanged images correctly{within}."
    if labels == "other-confirmed":
        return (
            f"The labels of some images are another network's, confirmed by a judge; it agreed with {rate['count']} of "
            f"{rate['of']}{within}."
        )
    return (
        f"The labels of some images are its own, confirmed by a judge; it repeated {rate['count']} of {rate['of']}"
        f"{within}, which is no measurement of its accuracy."
    )


def _level(level: Mapping[str, Any]) -> str:
    robust = level["robust"]
    if robust["limits"] is None:
        return f"{robust['count']} of {robust['of']} resisted every attack that was tried at {level['epsilon']}."
    return (
        f"At most {percent(robust['limits']['upper'])} of the pool's images resist a change of up to "
        f"{level['epsilon']}: the attacks left {robust['count']} of {robust['of']}, which is not what is safe."
    )


def _claim(claim: Mapping[str, Any]) -> str:
    reasons = f", because {'; '.join(claim['reasons'])}" if claim["reasons"] else ""
    return _VERDICTS[claim["verdict"]] + reasons


def _severity(block: Mapping[str, Any]) -> str:
    if not block["judged"]:
        return f"The severity of mistakes was not judged: {block['reason']}."
    counts = block["counts"]
    return (
        f"Of {block['judged']} broken images, {counts['same_kind']} are taken for the same kind of thing, "
        f"{counts['related']} for something related, {counts['unrelated']} for something unrelated."
    )
