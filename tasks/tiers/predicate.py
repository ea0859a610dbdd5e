"""Row predicates of tiers: one SQL expression each, checked before it runs.

A tier file is untrusted input. DuckDB runs with external access off and its configuration locked, so a predicate
reaches neither files nor the network. The parsed expression may contain only operations on one row, so a predicate
cannot aggregate, join, or depend on the clock, the machine or random numbers. Its length, its depth, the size of its
values, DuckDB's memory and the time of each run are limited.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from perturb.schemas.errors import TierError
from perturb.schemas.record import record_schema
from perturb.tasks.tiers.predicate_size import check_size, is_shallow

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_EXPRESSIONS = "CONJUNCTION COMPARISON COLUMN_REF CONSTANT FUNCTION OPERATOR CAST TYPE BETWEEN CASE LAMBDA"
# Pure, deterministic and independent of locale; operators are functions to DuckDB's parser.
_PURE = """
    + - * / // % ** ^ & | << >> ~~ !~~ ~~* !~~* ~~~ ||
    abs ceil ceiling floor round trunc sign sqrt exp ln log log2 log10 pow power greatest least isnan isfinite
    lower upper trim ltrim rtrim length len strlen contains starts_with ends_with prefix suffix substr substring
    left right replace concat position instr strpos split_part regexp_matches regexp_full_match like_escape ilike_escape
    not_like_escape not_ilike_escape
    list_value list_filter list_transform list_apply list_contains list_has list_has_any list_has_all list_any_value
    list_length array_length list_extract list_count list_max list_min list_sum list_avg list_bool_and list_bool_or
    struct_extract array_extract row struct_pack
    year month day date_part date_trunc dayofweek ifnull nullif
"""
_CLASSES = frozenset(_EXPRESSIONS.split())
# A lambda parameter of such a name would hide whether the column is read; catalogs and schemas precede columns.
_NO_PARAMETERS = frozenset({"records", "memory", "main", "temp", "system", *map(str.lower, record_schema().names)})
_FUNCTIONS = frozenset(_PURE.split())
_CONSTRUCTS = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "a star",
    "PARAMETER": "a parameter",
    "POSITIONAL_REFERENCE": "a column's position",
    "DEFAULT": "DEFAULT",
}
_CHARACTERS = 4_000
_DEPTH = 50
_MEMORY = "1GB"
_SECONDS = 120.0


def open_duckdb() -> "DuckDBPyConnection":
    """Open an in-memory DuckDB without files, network, extensions or Python variables, with its settings locked.

    Its memory is limited to 1 GB, of which nothing is moved to a disk.
    """
    import duckdb

    connection = duckdb.connect(
        config={
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
            "threads": "1",
            "memory_limit": _MEMORY,
            "temp_directory": "",
        }
    )
    # Binding adds levels to those that are written.
    connection.execute(f"SET max_expression_depth = {4 * _DEPTH}")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET lock_configuration = true")
    return connection


@cache
def check_predicate(sql: str, *, columns: tuple[str, ...] | None = None) -> frozenset[str]:
    """Return the record columns that `sql` reads; `columns` are those it may read (None: all of the record).

    Raises TierError when `sql` is not one boolean expression over these columns. The message says what is wrong; the
    caller adds the line of the tier file.
    """
    import duckdb

    allowed = tuple(record_schema().names if columns is None else columns)
    with open_duckdb() as connection:
        tree = _parse(connection, sql)
        read = _columns_read(tree, sql, allowed)
        check_size(tree, lambda what: TierError(f"predicate {_short(sql)} {what}"))
        connection.register("records", record_schema().empty_table())
        try:
            with _limited(connection):
                described = connection.execute(f"DESCRIBE SELECT (\n{sql}\n) AS kept FROM records").fetchall()
        except duckdb.Error as error:
            raise TierError(f"predicate {_short(sql)} does not fit the record: {_first_line(error)}") from error
    if len(described) != 1 or described[0][1] != "BOOLEAN":
        kind = described[0][1] if described else "nothing"
        raise TierError(f"predicate {_short(sql)} gives {kind}; write one that is true or false, such as 'ssim > 0.99'")
    return read


def matching(table: pa.Table, predicates: dict[str, str]) -> pa.Table:
    """Return whether each predicate holds for each row of `table`, in its order.

    The result has a boolean column without nulls for each key of `predicates`, in their order. Each predicate must have
    passed `check_predicate`. A predicate that is null for a row does not hold for it. Raises TierError for a predicate
    that fails on some row's value, and for predicates that need more than two minutes or 1 GB.
    """
    numbered = table.append_column("__row", pa.array(range(table.num_rows), pa.int64()))
    chosen = ", ".join(f'coalesce((\n{sql}\n), false) AS "{name}"' for name, sql in predicates.items())
    import duckdb

    with open_duckdb() as connection:
        connection.register("records", numbered)
        try:
            with _limited(connection):
                found = connection.sql(f"SELECT __row, {chosen} FROM records ORDER BY __row").to_arrow_table()
        except duckdb.Error as error:
            # For example a cast that fails for the value of some row.
            raise TierError(
                f"a predicate fails on the corpus: {_first_line(error)}; use try_cast or a guard"
            ) from error
    return found.drop_columns(["__row"])


@contextmanager
def _limited(connection: "DuckDBPyConnection") -> Iterator[None]:
    """Interrupt what the connection runs when the block takes too long. Raises TierError for that, and for memory."""
    import duckdb

    timer = threading.Timer(_SECONDS, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except duckdb.InterruptException as error:
        raise TierError(f"predicates take longer than {_SECONDS:g} s for one day; write simpler ones") from error
    except duckdb.OutOfMemoryException as error:
        raise TierError(f"predicates need more than {_MEMORY} for one day; write simpler ones") from error
    finally:
        timer.cancel()


def _parse(connection: "DuckDBPyConnection", sql: str) -> dict[str, Any]:
    if len(sql) > _CHARACTERS:
        raise TierError(f"predicate {_short(sql)} has {len(sql):,} characters; accepted: up to {_CHARACTERS:,}")
    query = f"SELECT * FROM records WHERE (\n{sql}\n)"
    ((answer,),) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()
    try:
        parsed = json.loads(answer)
    except RecursionError:
        raise _too_deep(sql) from None
    if "expression depth" in parsed.get("error_message", "") or not is_shallow(parsed, _DEPTH):
        raise _too_deep(sql)
    if parsed.get("error"):
        raise TierError(f"predicate {_short(sql)} is not SQL: {parsed['error_message']}; write one expression")
    statements = parsed["statements"]
    node = statements[0]["node"] if len(statements) == 1 else {}
    # Text that closes our bracket and continues shows here: a second statement, a union, an order, a limit.
    empty = {"type", "cte_map", "aggregate_handling", "select_list", "from_table", "where_clause"}
    extra = [key for key, value in node.items() if value and key not in empty]
    if node.get("type") != "SELECT_NODE" or extra or node["cte_map"]["map"]:
        raise TierError(f"predicate {_short(sql)} is more than one expression; write only what follows WHERE")
    if node["from_table"].get("type") != "BASE_TABLE" or node["from_table"].get("table_name") != "records":
        raise TierError(f"predicate {_short(sql)} reads another table; only the record's columns are there")
    where: dict[str, Any] = node["where_clause"]
    return where


def _too_deep(sql: str) -> TierError:
    return TierError(f"predicate {_short(sql)} is nested deeper than {_DEPTH} levels; write fewer terms")


def _columns_read(tree: dict[str, Any], sql: str, allowed: Sequence[str]) -> frozenset[str]:
    read = set()
    for node, parameters in _nodes(tree):
        kind = node["class"]
        if kind not in _CLASSES:
            construct = _CONSTRUCTS.get(kind, kind)
            raise TierError(f"predicate {_short(sql)} has {construct}; a predicate reads one row only")
        if kind == "FUNCTION" and (qualifier := node.get("catalog") or node.get("schema")):
            name = node["function_name"]
            raise TierError(
                f"predicate {_short(sql)} calls {qualifier}.{name}(); functions are named without a schema: {name}()"
            )
        if kind == "FUNCTION" and node["function_name"] not in _FUNCTIONS:
            name = node["function_name"]
            near = get_close_matches(name, _FUNCTIONS, 3)
            hint = (
                f"did you mean {', '.join(near)}?" if near else "use comparisons, arithmetic, text and list functions"
            )
            raise TierError(f"predicate {_short(sql)} calls {name}(), which predicates may not; {hint}")
        if kind == "COLUMN_REF":
            names = node["column_names"]
            name = names[1] if len(names) > 1 and names[0] == "records" else names[0]
            if name.lower() in parameters:
                if name.lower() in _NO_PARAMETERS:
                    raise TierError(
                        f"predicate {_short(sql)} names a lambda's parameter {name!r}, which is a column's name; use x"
                    )
                continue
            if name not in allowed:
                raise TierError(_unknown(name, sql, allowed))
            read.add(name)
    return frozenset(read)


def _unknown(name: str, sql: str, allowed: Sequence[str]) -> str:
    near = get_close_matches(name, allowed, 3)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(allowed)}"
    what = "a column that the tier does not grant" if name in record_schema().names else "an unknown column"
    return f"predicate {_short(sql)} names {name!r}, {what}; {hint}"


def _nodes(tree: object, parameters: frozenset[str] = frozenset()) -> Iterator[tuple[dict[str, Any], frozenset[str]]]:
    """Yield every node, with the parameters of the lambdas around it, in lower case, as DuckDB compares names."""
    if isinstance(tree, dict):
        if tree.get("class") == "LAMBDA":
            parameters |= set(_lambda_parameters(tree.get("lhs")))
        if isinstance(tree.get("class"), str):
            yield tree, parameters
        for value in tree.values():
            yield from _nodes(value, parameters)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value, parameters)


def _lambda_parameters(tree: object) -> Iterator[str]:
    for reference, _ in _nodes(tree):
        if reference["class"] == "COLUMN_REF":
            yield from map(str.lower, reference["column_names"])


def _short(sql: str) -> str:
    line = " ".join(sql.split())
    return repr(line if len(line) <= 80 else line[:77] + "...")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
