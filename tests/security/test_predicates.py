"""A predicate of a tier file reads one row's granted columns, and one that asks for too much ends in a sentence."""

import resource
import time

import pyarrow as pa
import pytest

from perturb.schemas.errors import TierError
from perturb.schemas.record import record_schema
from perturb.tasks.tiers import predicate
from perturb.tasks.tiers.predicate import check_predicate, matching

CAT = pa.Table.from_pylist([{"subject": "tabby cat", "linf": 0.5}] * 5_000, schema=record_schema())


# DuckDB drops this star. The comment ends with the line, and the project's own bracket follows on the next one.
HARMLESS = ("length(struct_pack(*)", "true -- ")
TEN = "'aaaaaaaaaa'"
GROW = f"replace(…, 'a', {TEN})"


def nested(times: int, call: str, inner: str) -> str:
    for _ in range(times):
        inner = call.replace("…", inner)
    return inner


@pytest.mark.parametrize(
    "sql",
    [
        "read_text('/etc/passwd') = 'x'",
        "linf in (select 1)",
        "exists (select 1)",
        "query('select 1') = 1",
        "true) union all select * from records where (true",
        "true; select 1",
        "true -- ) or (",
        "true /* */) group by all having (true",
        "true) window w as (order by linf) order by (linf",
        "columns(*) > 0",
        "length(row(*)::varchar) > 0",
        "length(row(*columns(*))::varchar) > 0",
        "length(struct_pack(*)::varchar) > 0",
        "row(records.*) = row(1)",
        "records::varchar = 'x'",
        "length(records) > 0",
        "records.miner_hotkey = 'x'",
        "main.records.miner_hotkey = 'x'",
        "MINER_HOTKEY = 'x'",
        "\"miner_hotkey\u200b\" = 'x'",
        "#1 = 'x'",
        "$1 = 'x'",
        "? = 'x'",
        "getvariable('x') = 'x'",
        "getenv('HOME') = 'x'",
        "current_user = 'x'",
        "current_setting('threads') = '1'",
        "rowid = 1",
        "__row = 1",
        "'now'::timestamp > '2020-01-01'",
        "system.main.abs(linf) > 0",
        "row_number() over () = 1",
        "linf = max(linf)",
        "random() > 0.5",
        "linf > (from records select max(linf))",
        "list_count(list_filter([1], lambda miner_hotkey: miner_hotkey = 'x')) > 0",
        "miner_hotkey ->> 'x' = 'x'",
    ],
)
def test_breakouts_are_refused(sql: str) -> None:
    """Where the text passes the check nevertheless, it has read nothing but the granted column."""
    try:
        read = check_predicate(sql, columns=("linf",))
        held = matching(CAT.select(["linf"]), {"kept": sql})
    except TierError:
        return
    assert sql.startswith(HARMLESS)
    assert read <= {"linf"}
    assert held.num_rows == CAT.num_rows


@pytest.mark.parametrize(
    "sql",
    [
        "+".join(["1"] * 900) + " > 0",
        nested(900, "not …", "true"),
        nested(600, "(…)", "true"),
        nested(400, "abs(…)", "linf") + " > 0",
        nested(900, "[…]", "1") + " = 1",
        nested(100, "case when true then … end", "true"),
        " and ".join(["true"] * 40_000),
        "(" * 100_000,
    ],
)
def test_long_and_deep_expressions_are_refused_with_a_sentence(sql: str) -> None:
    with pytest.raises(TierError, match=r"nested deeper than 50 levels|characters; accepted: up to 4,000"):
        check_predicate(sql)


@pytest.mark.parametrize(
    "sql",
    [
        f"length({nested(6, GROW, 'subject')}) > 5",
        f"length({nested(7, GROW, TEN)}) > 5",
        f"regexp_matches(subject, {nested(7, GROW, TEN)})",
        "length(replace(subject, 'a', replace(subject, 'b', subject))) > 5",
        f"length(list_transform({list(range(300))}, lambda x: {list(range(300))})) > 5",
        f"length({nested(4, 'list_transform([1, 2, 3, 4, 5, 6, 7, 8, 9], lambda x: …)', '1')}) > 5",
        f"length(list_transform({list(range(200))}, lambda x: list_transform({list(range(200))}, lambda y: x))) > 5",
    ],
)
def test_expressions_whose_values_grow_are_refused_before_they_run(sql: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TierError, match="values of more than 1,048,576 bytes for one row; nest fewer"):
        check_predicate(sql)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100_000, "KiB"


@pytest.mark.parametrize(
    "sql",
    [
        "replace(replace(subject, '_', ' '), '-', ' ') = 'tabby cat'",
        "replace(subject, '&', 'and') = 'tabby cat'",
        "list_contains(list_transform(['tabby', 'tiger'], lambda x: x || ' cat'), subject)",
        "subject in ('tabby cat', 'tiger cat') and " + " and ".join(["linf > 0.1"] * 200),
        nested(20, "(…) or linf > 3", "linf > 0.1"),
        nested(44, "abs(…)", "linf") + " > 0",
        " + ".join(["linf"] * 46) + " > 0",
    ],
)
def test_ordinary_predicates_run(sql: str) -> None:
    assert check_predicate(sql) <= {"subject", "linf"}
    assert matching(CAT, {"kept": sql})["kept"].to_pylist() == [True] * CAT.num_rows


def test_a_predicate_that_takes_too_long_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicate, "_SECONDS", 0.05)
    # DuckDB computes equal terms once.
    slow = f"{' + '.join(f'exp(sqrt(linf + {number}))' for number in range(40))} > 0"
    check_predicate(slow)
    many = CAT.take(pa.array([0] * 400_000))
    started = time.monotonic()
    with pytest.raises(TierError, match=r"take longer than 0\.05 s"):
        matching(many, {"kept": slow})
    assert time.monotonic() - started < 20


def test_a_predicate_that_needs_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicate, "_MEMORY", "1MB")
    with pytest.raises(TierError, match="need more than 1MB"):
        matching(pa.concat_tables([CAT] * 100), {f"view_{index}": "linf > 0.1" for index in range(20)})
