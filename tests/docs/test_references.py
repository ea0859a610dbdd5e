"""What the documents refer to exists: files, sections, modules, commands with their options, settings."""

import importlib
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import typer
import yaml
from pydantic import BaseModel
from typer.core import TyperGroup

from perturb.cli import app
from perturb.schemas.settings import ScoringPolicy, Settings
from perturb.tasks.verify.score import POLICIES

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_COMMAND = re.compile(r"(?:^|[`\s/;&(])perturb ((?:[a-z][a-z-]*)(?: [^`\n#;&|]*)?)")
_MODULE = re.compile(r"\bperturb(?:\.[A-Za-z_][A-Za-z0-9_]*)+")
_FOLDERS = (
    *("attacks", "benchmarks", "cli", "docs", "examples", "flows", "miner", "models", "perturb", "sandbox"),
    *("schemas", "sinks", "sources", "subnet", "tasks", "tests", ".ci"),
)
_FILE = re.compile(rf"`((?:{'|'.join(map(re.escape, _FOLDERS))})/[A-Za-z0-9_./-]*)`")
# What stands for a name that the reader chooses.
_PLACEHOLDER = re.compile(r"\b(NAME|FILE)\b")
# Not ours to define: what a shell or Prefect's own configuration takes from the environment.
_OTHER_VARIABLES = {"PERTURB_HOME"}


def each(documents: list[Path] = DOCUMENTS) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("document", documents, ids=lambda path: str(path.relative_to(ROOT)))


@each()
def test_links_lead_to_files_and_sections(document: Path) -> None:
    for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", _prose(document)):
        if "://" in target:
            continue
        name, _, section = target.partition("#")
        file = document if not name else (document.parent / name).resolve()
        assert file.exists(), f"[{text}]({target})"
        assert not section or section in _sections(file), f"[{text}]({target})"


@each()
def test_files_named_in_code_style_exist(document: Path) -> None:
    named = {name for name in _FILE.findall(document.read_text()) if not _PLACEHOLDER.search(name)}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


@each()
def test_modules_and_their_members_exist(document: Path) -> None:
    for name in set(_MODULE.findall(_without_file_names(document.read_text()))):
        if not _PLACEHOLDER.search(name):
            _resolve(name)


@each()
def test_commands_and_options_exist(document: Path) -> None:
    for line in _COMMAND.findall(document.read_text()):
        _check_command(line)


@each()
def test_settings_exist(document: Path) -> None:
    for variable in set(re.findall(r"\bPERTURB_[A-Z0-9_]*[A-Z0-9]\b", document.read_text())) - _OTHER_VARIABLES:
        model: type[BaseModel] = Settings
        *sections, last = variable.removeprefix("PERTURB_").lower().split("__")
        for section in sections:
            found = model.model_fields[section].annotation
            assert isinstance(found, type)
            assert issubclass(found, BaseModel), variable
            model = found
        assert last in model.model_fields, variable


@each()
def test_toml_and_yaml_can_be_parsed(document: Path) -> None:
    for kind, text in re.findall(r"```(toml|yaml)\n(.*?)```", document.read_text(), re.DOTALL):
        _ = tomllib.loads(text) if kind == "toml" else yaml.safe_load(text)


@each()
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE)
    assert set(named) <= targets


def test_the_readme_shows_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    for words in _all_commands():
        assert f"`perturb {words}" in text or f"`{words}" in text, words


def test_the_readme_groups_commands_as_the_help_does() -> None:
    """The first column of the table names a panel and holds until the next one."""
    panels = {}
    panel = ""
    for line in (ROOT / "README.md").read_text().partition("## The commands")[2].partition("\n## ")[0].splitlines():
        panel = (re.findall(r"^\| \*\*(\w+)\*\* \|", line) or [panel])[0]
        panels |= dict.fromkeys(re.findall(r"`perturb ([a-z]+)", line.rpartition("|")[0].rpartition("|")[0]), panel)
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    shown = {name: command.rich_help_panel for name, command in group.commands.items()}
    assert {name: panels.get(name) for name in shown} == shown


def test_the_operations_page_shows_every_deployment() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    names = {item["name"] for item in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    named = {re.sub(r"^export-.*", "export-TIER", name) for name in names}
    assert sorted(name for name in named if f"| `{name}` |" not in text) == []


def test_scoring_policies_are_accepted_implemented_and_documented() -> None:
    text = (ROOT / "docs/scoring.md").read_text()
    assert get_args(ScoringPolicy) == tuple(POLICIES)
    assert all(f"## `{name}`" in text for name in POLICIES)


def _prose(document: Path) -> str:
    return re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)


def _sections(file: Path) -> set[str]:
    """Names of a page's sections, as GitHub and MkDocs make them for these titles."""
    titles = re.findall(r"^#+ (.+)$", _prose(file), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def _without_file_names(text: str) -> str:
    """`perturb.toml`, unit files and the like are not modules; links into packages of others are not ours."""
    return re.sub(r"\bperturb\.(toml|env|prom|yaml)\b", "", text)


def _resolve(name: str) -> None:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            assert _has(found, attribute), name
            found = getattr(found, attribute, None)
        return
    raise AssertionError(name)


def _has(found: object, attribute: str) -> bool:
    return hasattr(found, attribute) or attribute in getattr(found, "model_fields", {})


def _check_command(line: str) -> None:
    command = typer.main.get_command(app)
    words = line.split()
    while isinstance(command, TyperGroup) and words:
        if words[0].startswith("-") and command.invoke_without_command:
            break
        assert words[0] in command.commands, f"perturb {line}"
        command, words = command.commands[words[0]], words[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-") and len(word) > 1:
            assert word.rstrip(",.:)").partition("=")[0] in {*options, "--help"}, f"perturb {line}: {word}"


def _all_commands() -> Iterator[str]:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from (f"{name} {inner}" for inner in command.commands)
        else:
            yield name


def test_no_document_speaks_of_a_machine_that_it_was_written_on() -> None:
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.split():
        assert not re.search(r"(?<![\w/])/(?:work|root|tmp/wt)/", (ROOT / name).read_text()), name
