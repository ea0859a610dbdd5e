"""How deep a predicate is nested, and how large its values can become, from its parsed form alone.

DuckDB evaluates an expression for up to 2,048 rows at once, and counts neither the texts nor the lists that this
creates against its memory limit. Its interrupt waits until these rows are done. So an expression whose values could
become large is refused before it runs. It may also run while DuckDB binds it, where constants are folded.
"""

from collections.abc import Callable
from math import prod
from typing import Any

from perturb.schemas.errors import TierError

LARGEST_VALUE = 2**20
"""Bytes that a value of a predicate may have for one row."""

# Assumed for a column and for a lambda's parameter. Texts of records are shorter; an element is shorter than its list.
_COLUMN, _PARAMETER, _NUMBER = 1024, 64, 8
# The functions whose value can be larger than all that they are given together. Each factor is an argument's size.
_FACTORS = {"replace": (0, 2), "list_transform": (0, 1), "list_apply": (0, 1), "list_filter": (0, 1)}


def is_shallow(tree: object, levels: int) -> bool:
    """Return whether at most `levels` expressions are nested in `tree`, so that functions may recurse over it."""
    waiting: list[tuple[object, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > levels:
            return False
        if isinstance(node, dict):
            depth += isinstance(node.get("class"), str)
            waiting += [(part, depth) for part in node.values()]
        elif isinstance(node, list):
            waiting += [(part, depth) for part in node]
    return True


def check_size(tree: object, refused: Callable[[str], TierError]) -> None:
    """Raise `refused(sentence)` where a value of the parsed expression `tree` could exceed LARGEST_VALUE bytes."""

    def size(node: object, parameters: frozenset[str]) -> int:
        if isinstance(node, list):
            return sum(size(part, parameters) for part in node)
        if not isinstance(node, dict):
            return 0
        found = _size_of(node, parameters)
        if found > LARGEST_VALUE:
            raise refused(
                f"can make values of more than {LARGEST_VALUE:,} bytes for one row; nest fewer replace() and list "
                "functions, and use shorter texts and lists in them"
            )
        return found

    def _size_of(node: dict[str, Any], parameters: frozenset[str]) -> int:
        match node.get("class"):
            case "CONSTANT":
                literal = node.get("literal", {})
                return max(
                    1 if literal.get("kind") == "STRING" else _NUMBER, len(str(literal.get("text", "")).encode())
                )
            case "COLUMN_REF":
                return _PARAMETER if node["column_names"][0].lower() in parameters else _COLUMN
            case "LAMBDA":
                names = {str(part).lower() for part in _column_names(node["lhs"])}
                return size(node["expr"], parameters | names)
            case "CAST":
                # A text of digits and commas becomes a list of numbers.
                return _NUMBER * size(node["child"], parameters)
            case "FUNCTION" if node["function_name"] in _FACTORS:
                sizes = [size(argument, parameters) for argument in node["arguments"]]
                factors = [sizes[index] for index in _FACTORS[node["function_name"]] if index < len(sizes)]
                return prod(max(1, factor) for factor in factors)
        return sum(size(part, parameters) for part in node.values())

    size(tree, frozenset())


def _column_names(node: object) -> list[str]:
    if isinstance(node, dict):
        own = node["column_names"] if node.get("class") == "COLUMN_REF" else []
        return [*own, *(name for part in node.values() for name in _column_names(part))]
    if isinstance(node, list):
        return [name for part in node for name in _column_names(part)]
    return []
