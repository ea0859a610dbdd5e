"""`perturb.toml` as `perturb init` writes it: every setting with its description and its default, as a comment.

The text is derived from `Settings`, so a default and its description stand once, in the model.
"""

from collections.abc import Iterator
from pathlib import PurePath
from textwrap import wrap
from typing import Any, Literal, get_args, get_origin

import tomli_w
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from perturb.schemas.settings import PROFILES, Settings

_HEAD = """\
Settings of the Perturb pipeline. Each setting stands here as a comment with its default: remove the `#` in front of
one to change it. Environment variables win over this file: PERTURB_STORE sets `store`, PERTURB_BOUNDS__EPSILON sets
`epsilon` of [bounds]. Keep secrets out of this file, in variables. `perturb doctor` shows what is in effect.
"""
_WIDTH = 118


def commented_settings() -> str:
    """Return the text of a `perturb.toml` that changes nothing.

    Prose lines begin with `# `, settings with `#` and no space. A setting without a default stands in prose only.
    """
    fields = Settings.model_fields
    lines = [*_prose(_HEAD), ""]
    for name, field in fields.items():
        if not _is_section(field):
            lines += [*_setting(name, field), *(_profiles() if name == "profile" else ()), ""]
    for name, field in fields.items():
        if _is_section(field):
            section: type[BaseModel] = field.annotation  # type: ignore[assignment]
            lines += [*_prose((section.__doc__ or "").partition("\n\n")[0]), f"[{name}]"]
            for inner, inner_field in section.model_fields.items():
                lines += _setting(inner, inner_field)
            lines.append("")
    return "\n".join(lines)


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _setting(name: str, field: FieldInfo) -> list[str]:
    default = _plain(field.get_default(call_default_factory=True))
    said = [field.description or "", *_accepted(field)]
    if default is None:
        return _prose(f"{name}, not set by default: {'; '.join(filter(None, said))}")
    return [*_prose("; ".join(filter(None, said))), "#" + tomli_w.dumps({name: default}).rstrip()]


def _accepted(field: FieldInfo) -> Iterator[str]:
    if get_origin(field.annotation) is Literal:
        yield "accepted: " + ", ".join(repr(value) for value in get_args(field.annotation))


def _profiles() -> Iterator[str]:
    """What each profile sets, as prose."""
    for name, defaults in PROFILES.items():
        if defaults:
            yield from _prose(f"The profile {name!r} has other defaults: {', '.join(_assignments(defaults, ''))}.")


def _assignments(values: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _assignments(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{tomli_w.dumps({name: value}).rstrip()}"


def _plain(value: object) -> Any:
    """A default as TOML has it."""
    match value:
        case SecretStr():
            return value.get_secret_value()
        case bool() | int() | float() | None:
            return value
        case tuple():
            return [_plain(item) for item in value]
        case PurePath():
            return str(value)
    return str(value)


def _prose(text: str) -> list[str]:
    return [f"# {line}" for line in wrap(" ".join(text.split()), _WIDTH)]
