"""Text that others wrote is printed as it is: it is not markup, and it does not control the terminal."""

import sys

import pytest

from perturb.cli.output import facts, say, show_progress, styled, table
from perturb.schemas.clean_text import clean
from perturb.schemas.errors import AuditError

HOSTILE = "[/x] [red]label[/] :smile: \x1b[2J\x1b]0;title\x07\x9b31m\u202e\rover\\"
AS_IT_IS = "[/x] [red]label[/] :smile: [2J]0;title31m"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    out = capsys.readouterr().out
    assert not [
        character for character in out if (ord(character) < 0x20 and character != "\n") or character in "\x7f\x9b\u202e"
    ]
    return out


def test_text_is_no_markup_and_controls_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"a sentence about {HOSTILE}")
    assert f"a sentence about {AS_IT_IS}over\\" in printed(capsys)


def test_a_styled_line_stays_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(styled(("FAULT", "red"), f" {HOSTILE}: two\nlines", ("[x]", "dim")))
    assert printed(capsys) == f"FAULT {AS_IT_IS} over\\: two lines[x]\n"


def test_cells_and_titles_stay_text(capsys: pytest.CaptureFixture[str]) -> None:
    say(table(HOSTILE, ["name"], [(HOSTILE,), ("two\nlines",), (0.123456,), (None,)]), facts("", {HOSTILE: 1}))
    out = printed(capsys)
    assert out.count(AS_IT_IS) == 3
    assert "two lines" in out
    assert "0.1235" in out


def test_what_is_copied_stays_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    address, digest = f"https://example.org/{'a' * 60}", "0123456789abcdef" * 4
    say(f"publish the file at {address}, then check it")
    say(styled("the page is in ", (address, "bold")))
    out = printed(capsys)
    assert out == f"publish the file at {address}, then check it\nthe page is in {address}\n"
    say(facts("", {"": digest}), table("", ["X", "Y"], [(digest, "Z" * 40)], whole=["X"]))
    digits = "".join(character for character in printed(capsys) if character in digest)
    assert digits == 2 * digest


def test_a_line_of_progress_is_removed_before_anything_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show_progress("unseen")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show_progress("day 1")
    show_progress("day 2")
    say("everything holds")
    say("a second line")
    clean_line = "\r\x1b[2K"
    assert capsys.readouterr().err == f"{clean_line}day 1{clean_line}day 2{clean_line}"


def test_errors_are_cleaned_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import perturb.cli

    def fail() -> None:
        raise AuditError(f"the proof does not hold: {HOSTILE}")

    monkeypatch.setattr(perturb.cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        perturb.cli.main()
    assert ended.value.code == AuditError.exit_code
    assert f"perturb: the proof does not hold: {AS_IT_IS}" in capsys.readouterr().err


def test_lines_and_letters_of_any_language_stay() -> None:
    text = "naïve\tçà et là\n日本語 فارسی 🙂"
    assert clean(text) == text
