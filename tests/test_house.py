"""The house holds its direction: a module imports only from floors below its own."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = (
    {"schemas"},
    {"sources", "models", "subnet", "sinks"},
    {"tasks", "miner"},
    {"flows"},
    {"cli"},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imported_rooms(path: Path) -> set[str]:
    """The project's own packages that a module imports anywhere, inside functions too."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        rooms |= {name.partition(".")[0] for name in names}
    return rooms & FLOOR_OF.keys()


def test_imports_point_down_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for room, floor in FLOOR_OF.items()
        for path in (ROOT / room).rglob("*.py")
        for other in imported_rooms(path)
        if other != room and FLOOR_OF[other] >= floor
    ]
    assert not wrong


def test_every_room_stands_in_the_package_list() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    rooms = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for room in FLOOR_OF
        for path in (ROOT / room).rglob("*.py")
    }
    assert rooms == listed


def test_no_file_has_grown_past_one_subject() -> None:
    long = {
        str(p.relative_to(ROOT))
        for room in FLOOR_OF
        for p in (ROOT / room).rglob("*.py")
        if len(p.read_text().splitlines()) > 330
    }
    assert not long
