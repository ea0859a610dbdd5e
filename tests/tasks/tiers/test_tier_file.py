"""Tier files: what is accepted, what is refused and with which line, and what predicates can't do."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturb.schemas.errors import TierError
from perturb.schemas.record import record_schema
from perturb.schemas.tier import GROUPS, IDENTIFYING, NEVER_GRANTED, Tier, grantable
from perturb.tasks.tiers.predicate import check_predicate, matching
from perturb.tasks.tiers.tier_file import load_tiers, parse_tiers

SHIPPED = Path("tiers.toml")
TEXT = SHIPPED.read_text()
# The shipped tiers have no delay; these lag behind each other.
TEXT = TEXT.replace("fraction = 0.25", "fraction = 0.25\ndelay_days = 30")
TEXT = TEXT.replace("fraction = 0.5", "fraction = 0.5\ndelay_days = 7")

LAYOUTS = 'layouts = ["pairs", "wds", "by_photo"]'


def line_of(text: str) -> int:
    return 1 + TEXT[: TEXT.index(text)].count("\n")


def test_shipped_tiers_nest_and_no_lower_one_tells_who_the_miner_is() -> None:
    tiers = load_tiers(SHIPPED)
    assert list(tiers) == ["sample", "research", "professional", "enterprise"]
    for tier in tiers.values():
        if tier.within:
            outer = tiers[tier.within]
            assert set(tier.granted) < set(outer.granted)
            assert tier.fraction <= outer.fraction
            assert tier.delay_days >= outer.delay_days
        if tier.miner != "hotkey":
            assert not IDENTIFYING & set(tier.granted)
        assert not NEVER_GRANTED & set(tier.granted)


def test_groups_cover_every_column_that_may_leave() -> None:
    listed = [name for names in GROUPS.values() for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(grantable("hotkey"))


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("linf_levels <= 4", "max(linf) > 1", 'where = "linf_levels <= 4', "max()"),
        ("linf_levels <= 4", "linf_level <= 4", 'where = "linf_levels <= 4', "did you mean linf_levels"),
        ("linf_levels <= 4", "exists(select 1)", 'where = "linf_levels <= 4', "subquery"),
        ("linf_levels <= 4", "true) union select * from read_csv('x') where (true", 'where = "linf_levels <= 4', "one"),
        ("linf_levels <= 4", "linf in (select * from read_text('/etc/passwd'))", 'where = "linf_levels', "subquery"),
        ("linf_levels <= 4", "read_text('/etc/passwd') = 'x'", 'where = "linf_levels <= 4', "read_text()"),
        ("linf_levels <= 4", "main.abs(linf) > 0", 'where = "linf_levels <= 4', "without a schema: abs()"),
        ("linf_levels <= 4", "getenv('HOME') = 'x'", 'where = "linf_levels <= 4', "getenv()"),
        *[("linf_levels <= 4", f"list_count(list_filter([1], lambda {name}: true)) = 1 and {column} = 'x'",
           'where = "linf_levels <= 4', says)
          for name, column, says in [
              ("miner_hotkey", "miner_hotkey", "lambda's parameter"), ("MINER_HOTKEY", "MINER_HOTKEY", "lambda's"),
              ("Records", "Records.miner_hotkey", "lambda's"), ("main", "main.records.miner_hotkey", "lambda's"),
              ("temp", "temp.main.records.miner_hotkey", "lambda's parameter"), ("x", "x", "unknown column"),
          ]],
        ("linf_levels <= 4", "now() > created_at", 'where = "linf_levels <= 4', "now()"),
        ("linf_levels <= 4", "current_date > created_at", 'where = "linf_levels <= 4', "current_date"),
        ("linf_levels <= 4", "random() < 0.5", 'where = "linf_levels <= 4', "random()"),
        ("linf_levels <= 4", "linf", 'where = "linf_levels <= 4', "DOUBLE"),
        ("linf_levels <= 4", "true; drop table records", 'where = "linf_levels <= 4', "one expression"),
        ("linf_levels <= 4", "", 'where = "linf_levels <= 4', "where"),
        ("fraction = 0.25", "fraction = 1.5", "fraction = 0.25", "1.5"),
        ("fraction = 0.25", "fraction = 0", "fraction = 0.25", "greater than 0"),
        ("fraction = 0.25", "fraction = nan", "fraction = 0.25", "fraction"),
        ("fraction = 0.25", "fraction = 0.9", "fraction = 0.25", "takes no more"),
        ("delay_days = 30", "delay_days = 1", "delay_days = 30", "no earlier"),
        ('"psnr", "ssim"', '"psnr", "ssim", "score"', "columns = [\n", "grants score"),
        ('"psnr", "ssim"', '"psnr", "ssim", "miner_hotkey"', "columns = [\n", "identifies the miner"),
        ('"psnr", "ssim"', '"psnr", "ssim", "perturbed_offset"', "columns = [\n", "never exported"),
        ('"psnr", "ssim"', '"psnr", "sim"', "columns = [\n", "does not exist"),
        ('miner = "none"', 'miner = "hotkey"', 'miner = "none"', "shows no more"),
        ('miner = "none"', 'miner = "nobody"', 'miner = "none"', "nobody"),
        ('within = "research"', 'within = "gold"', 'within = "research"', "not another tier"),
        ('views = ["minimal"]', 'views = ["persistent"]', 'views = ["minimal"]', "does not grant"),
        ('views = ["minimal"]', 'views = ["tiny"]', 'views = ["minimal"]', "not in [views]"),
        ("[tiers.sample]", "[tiers.Sample]", "[tiers.sample]", "lower-case"),
        (LAYOUTS, 'layouts = ["by_photo"]', LAYOUTS, 'list "pairs"'),
        (LAYOUTS, 'layouts = ["pairs", "tars"]', LAYOUTS, "'tars'"),
        ("delay_days = 30", "delay = 30", "delay_days = 30", "not a key"),
        ("format = 1", "format = 2", "format = 1", "format = 1"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_line(old: str, new: str, line: str, says: str) -> None:
    assert old in TEXT
    with pytest.raises(TierError) as caught:
        parse_tiers(TEXT.replace(old, new, 1))
    assert str(caught.value).startswith(f"tiers.toml, line {line_of(line)}:"), caught.value
    assert says in str(caught.value)


def test_an_editor_of_windows_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "tiers.toml").write_bytes(b"\xef\xbb\xbf" + SHIPPED.read_bytes().replace(b"\n", b"\r\n"))
    assert load_tiers(tmp_path / "tiers.toml") == load_tiers(SHIPPED)


def test_a_circle_of_tiers_and_text_that_is_no_toml_are_refused(tmp_path: Path) -> None:
    circle = TEXT.replace("[tiers.enterprise]\n", '[tiers.enterprise]\nwithin = "sample"\n')
    with pytest.raises(TierError, match="circle"):
        parse_tiers(circle)
    with pytest.raises(TierError, match="not TOML"):
        parse_tiers("[tiers")
    with pytest.raises(TierError, match=r"there is no tier file .*; run this in a folder that `perturb init` wrote"):
        load_tiers(tmp_path / "none.toml")


WORDS = """
linf true false ( ) , select from where records union all ; -- /* */ ' " [ ] { } : :: lambda t . * 1 = < > and or
not exists in read_text read_csv 'x' /etc/passwd pragma set copy attach install getenv unnest with recursive case
when then end over partition limit order by group having columns exclude random current_timestamp
"""
TOKENS = st.sampled_from(WORDS.split())


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(TOKENS, max_size=14).map(" ".join)))
def test_any_text_is_refused_or_a_pure_predicate(sql: str) -> None:
    """Text that passes the check gives each row one boolean, independent of its place, or fails with a sentence.

    It may fail on a value that it casts: `'' < linf` casts the empty string to a number.
    """
    try:
        read = check_predicate(sql)
    except TierError:
        return
    assert read <= set(record_schema().names)
    row = {"linf": 0.5}
    table = pa.Table.from_pylist([row, row, row], schema=record_schema())
    try:
        held = matching(table, {"held": sql})["held"].to_pylist()
    except TierError:
        return
    assert held == matching(table.slice(0, 1), {"held": sql})["held"].to_pylist() * 3


def test_a_predicate_reads_neither_files_nor_python(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    outside = pa.table({"a": [1]})
    for sql in (f"1 in (select a from '{secret}')", "1 in (from outside)", f"(from read_csv('{secret}')) = 1"):
        with pytest.raises(TierError):
            check_predicate(sql)
    assert outside.num_rows == 1


def test_a_value_that_breaks_a_cast_is_a_sentence() -> None:
    table = pa.Table.from_pylist([{"subject": "cat"}], schema=record_schema())
    with pytest.raises(TierError, match="try_cast"):
        matching(table, {"kept": "cast(subject as int) = 1"})


def test_groups_stand_for_what_the_identity_allows() -> None:
    tier = Tier(name="t", description="d", columns=("@identity", "@response"), license="l")
    assert set(tier.granted) == {
        "round_id", "created_at", "netuid", "block", "validator_hotkey", "response_ms", "outcome",
    }  # fmt: skip
