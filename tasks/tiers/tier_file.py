"""The tier file: parse it, report each error with its line, and check that tiers nest."""

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from perturb.schemas.errors import TierError
from perturb.schemas.tier import IDENTITIES, Tier
from perturb.tasks.tiers.predicate import check_predicate

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

FORMAT = 1
Tiers = dict[str, Tier]


def load_tiers(path: Path) -> Tiers:
    """Return the tiers of a file by name, in the file's order, after a check of every predicate and every `within`.

    Raises TierError, whose message begins with the file and the line of the error.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise TierError(
            f"there is no tier file {path.absolute()}; run this in a folder that `perturb init` wrote, or set tiers to "
            "a TOML file"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise TierError(f"tier file {path} cannot be read ({error}); set tiers to a TOML file") from error
    return parse_tiers(text, name=str(path))


def parse_tiers(text: str, *, name: str = "tiers.toml") -> Tiers:
    """Return the tiers in `text`, as `load_tiers`; messages name the file `name`."""
    place = _Place(name, text)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TierError(f"{name}: not TOML: {error}") from error
    if content.pop("format", None) != FORMAT:
        raise TierError(f"{place('', 'format')}: this release reads format = {FORMAT}; put that line first")
    views = content.pop("views", {})
    tables = content.pop("tiers", {})
    for key in content:
        raise TierError(f"{place(key, '')}: {key!r} is neither format, [views] nor [tiers.NAME]; remove it")
    if not isinstance(views, dict) or not isinstance(tables, dict) or not tables:
        raise TierError(f"{name}: it defines no [tiers.NAME]; add at least one")
    for view, sql in views.items():
        _check(place("views", view), sql)
    tiers = {tier: _tier(tier, table, views, place) for tier, table in tables.items()}
    for tier in tiers.values():
        _check_within(tier, tiers, place)
    return tiers


def get_tier(tiers: Tiers, name: str) -> Tier:
    """Return the tier of that name. Raises TierError, which lists the names in the tier file."""
    if name not in tiers:
        raise TierError(f"tier {name!r} is not in the tier file, which has {', '.join(tiers)}")
    return tiers[name]


def line_in(path: Path, tier: str, key: str) -> str:
    """Return `file, line N` of a tier's key, for messages about what the corpus shows."""
    return _Place(str(path), path.read_text(encoding="utf-8"))(f"tiers.{tier}", key)


def _tier(name: str, table: object, views: dict[str, str], place: "_Place") -> Tier:
    section = f"tiers.{name}"
    if not isinstance(table, dict):
        raise TierError(f"{place('tiers', name)}: {name!r} is not a table; write [tiers.{name}]")
    chosen = table.get("views", [])
    if not isinstance(chosen, list):
        raise TierError(f"{place(section, 'views')}: views = {chosen!r}; write a list of names from [views]")
    for view in chosen:
        if view not in views:
            known = ", ".join(views) or "none"
            raise TierError(f"{place(section, 'views')}: view {view!r} is not in [views], which has {known}")
    try:
        tier = Tier(**{**table, "name": name, "views": {view: views[view] for view in chosen}})
    except ValidationError as error:
        issue = error.errors()[0]
        key = str(issue["loc"][0]) if issue["loc"] else "columns"
        raise TierError(f"{place(section, key)}: {_sentence(key, issue)}") from error
    _check(place(section, "where"), tier.where)
    for view, sql in tier.views.items():
        # A view over withheld columns would reveal them, one bit a row.
        _check(f"{place(section, 'views')}: view {view!r}", sql, columns=tier.granted)
    return tier


def _sentence(key: str, issue: "ErrorDetails") -> str:
    if issue["type"] == "extra_forbidden":
        return f"{key!r} is not a key of a tier; use {', '.join(Tier.model_fields)}"
    if issue["type"] == "missing":
        return f"{key!r} is missing; add it"
    if issue["type"] == "value_error":
        return str(issue["ctx"]["error"])
    return f"{key} = {issue['input']!r}: {issue['msg']}"


def _check(where: str, sql: object, *, columns: tuple[str, ...] | None = None) -> None:
    if not isinstance(sql, str):
        raise TierError(f"{where}: {sql!r} is not a predicate; write a string that holds SQL")
    try:
        check_predicate(sql, columns=columns)
    except TierError as error:
        raise TierError(f"{where}: {error}") from error


def _check_within(tier: Tier, tiers: Tiers, place: "_Place") -> None:
    if tier.within is None:
        return
    section = f"tiers.{tier.name}"
    outer = tiers.get(tier.within)
    chain = {tier.name}
    while outer is not None and outer.within is not None:
        if outer.name in chain:
            raise TierError(f"{place(section, 'within')}: tiers are within each other in a circle; remove one within")
        chain.add(outer.name)
        outer = tiers.get(outer.within)
    outer = tiers.get(tier.within)
    if outer is None or outer.name == tier.name:
        others = ", ".join(name for name in tiers if name != tier.name)
        raise TierError(f"{place(section, 'within')}: within = {tier.within!r} is not another tier; use {others}")
    if tier.fraction > outer.fraction:
        raise TierError(
            f"{place(section, 'fraction')}: {tier.name} takes {tier.fraction:g} of the records, {outer.name} only "
            f"{outer.fraction:g}; a tier within another takes no more than that tier"
        )
    if tier.delay_days < outer.delay_days:
        raise TierError(
            f"{place(section, 'delay_days')}: {tier.name} comes after {tier.delay_days} days, {outer.name} after "
            f"{outer.delay_days}; a tier within another comes no earlier"
        )
    if IDENTITIES.index(tier.miner) > IDENTITIES.index(outer.miner):
        raise TierError(
            f"{place(section, 'miner')}: {tier.name} shows miners as {tier.miner!r}, {outer.name} as {outer.miner!r}; "
            "a tier within another shows no more"
        )
    more = [column for column in tier.granted if column not in outer.granted]
    if more:
        raise TierError(
            f"{place(section, 'columns')}: {tier.name} grants {', '.join(more)}, which {outer.name} does not; "
            f"remove them or grant them there too"
        )


class _Place:
    """Finds `file, line N` of a key in TOML text, for messages."""

    def __init__(self, name: str, text: str):
        self._name = name
        self._lines = text.splitlines()

    def __call__(self, section: str, key: str) -> str:
        """Return the line of `key` in `[section]`, else the line of the section, else the file alone."""
        inside, found = section == "", None
        for number, line in enumerate(self._lines, start=1):
            header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
            if header and "=" not in line.split("]")[0]:
                inside = header.group(1).replace('"', "").replace(" ", "") == section
                found = number if inside and found is None else found
            elif inside and key and re.match(rf"\s*\"?{re.escape(key)}\"?\s*=", line):
                return f"{self._name}, line {number}"
        return f"{self._name}, line {found}" if found else self._name
