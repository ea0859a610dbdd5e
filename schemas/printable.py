"""Names and texts of others in a form that every file, terminal and reader of a record can hold."""

import re

# C0 and C1 controls, the marks that reorder or break a line, and the surrogates that stand for undecodable bytes.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]|\\")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def printable_name(name: str) -> str:
    r"""Return a file name as valid, printable UTF-8 text from which its bytes can be recovered.

    Bytes that are not UTF-8, control characters, line separators and marks that reverse the reading direction become
    `\xNN`, one for each byte. A backslash is doubled. Everything else stays as it is. The reverse is
    `os.fsdecode(text.encode().decode("unicode_escape").encode("latin-1"))`.
    """
    return _UNPRINTABLE.sub(lambda found: r"\\" if found[0] == "\\" else _escaped(found[0]), name)


def storable_text(text: str) -> str:
    r"""Return a text that UTF-8 can encode: lone surrogates become `\xNN`, everything else stays as it is.

    JSON may hold lone surrogates, and Python puts one in place of each byte of a file name that is not UTF-8.
    """
    return _SURROGATE.sub(lambda found: _escaped(found[0]), text)


def _escaped(character: str) -> str:
    undecoded = "\udc80" <= character <= "\udcff"
    data = character.encode("utf-8", "surrogateescape" if undecoded else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in data)
