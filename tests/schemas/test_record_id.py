"""Record IDs begin with the UTC day of the challenge."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from perturb.schemas.record import record_day, record_id


def test_an_id_begins_with_the_utc_day_of_the_challenge() -> None:
    made = datetime(2026, 11, 25, 23, 30, tzinfo=UTC)
    found = record_id(made, "t" * 64, "5Miner", "a" * 64)
    assert found.startswith("20261125")
    assert len(found) == 32
    assert record_day(found) == date(2026, 11, 25)
    # The same moment on a clock of another zone, and the same answer a day later.
    assert record_id(made.astimezone(timezone(timedelta(hours=3))), "t" * 64, "5Miner", "a" * 64) == found
    later = record_id(made + timedelta(days=1), "t" * 64, "5Miner", "a" * 64)
    assert (later[:8], later[8:]) == ("20261126", found[8:])
    assert record_id(made, "t" * 64, "5Miner", None) != found


@pytest.mark.parametrize("text", ["", "20261125", "20261325" + "a" * 24, "20261125" + "g" * 24, "2026112" + "a" * 25])
def test_what_is_no_id_has_no_day(text: str) -> None:
    assert record_day(text) is None
