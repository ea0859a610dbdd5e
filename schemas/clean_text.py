"""Texts of others on their way to a terminal: nothing in them controls it, and no log line is forged with them."""

import logging
import sys
import traceback
from types import TracebackType
from typing import Any

_LINE_BREAKS = {ord(character): " " for character in "\n\r\v\f\x85\u2028\u2029"}
_KEPT = {"\n", "\t"}
# Overrides of the writing direction make a text read as another one.
_DIRECTION = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_CONTROLS = [code for code in (*range(0x20), *range(0x7F, 0xA0), *_DIRECTION) if chr(code) not in _KEPT]
_DROPPED = dict.fromkeys(_CONTROLS)
_ESCAPED = {code: f"\\u{code:04x}" for code in (*_CONTROLS, 0x2028, 0x2029)}


def clean(text: str) -> str:
    """Return `text` without control characters; line feeds and tabs stay."""
    return text.translate(_DROPPED)


def in_line(text: str) -> str:
    """Return `text` without control characters and line breaks, so that it cannot add lines that look like ours."""
    return clean(text.translate(_LINE_BREAKS))


def clean_json(text: str) -> str:
    r"""Return one-line JSON text without control characters: those that JSON allows become `\uNNNN`."""
    return text.translate(_ESCAPED)


def clean_output() -> None:
    """Clean what this process logs, whichever library formats it, and the traceback that ends it."""
    logging.setLogRecordFactory(CleanRecord)
    sys.excepthook = _print_clean


class CleanRecord(logging.LogRecord):
    """A log record whose message, arguments and traceback included, controls no terminal. Our own have one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0] is not None:
            # A formatter takes this text where it is set.
            self.exc_text = clean("".join(traceback.format_exception(*self.exc_info))).rstrip("\n")

    def getMessage(self) -> str:
        """Return the message with its arguments, cleaned."""
        message = super().getMessage()
        return in_line(message) if self.name.partition(".")[0] == "perturb" else clean(message)


def _print_clean(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    sys.stderr.write(clean("".join(traceback.format_exception(kind, error, where))))
