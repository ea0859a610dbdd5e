"""The columns of each version of the corpus format. Names and types of a version that was released never change."""

import hashlib

from perturb.schemas.record import record_schema
from perturb.sinks.formats.version import FORMAT

# Format version -> number of columns, and the digest of their names and types.
COLUMNS = {
    1: (72, "1a3053362e0a0e12ec52bd06d05bfb3358ffe1624ad0817f7ef6d30e93e35154"),
    2: (79, "b744ea00db3e589651a36cb72b52865ba47b220c2445c97eac4e9c9d699ab2dd"),
}


def test_other_columns_are_another_format() -> None:
    """A new column that may be null changes the line of its format. Any other change of columns raises `FORMAT`."""
    schema = record_schema()
    text = "\n".join(f"{field.name}: {field.type}" for field in schema)
    assert COLUMNS[FORMAT] == (len(schema), hashlib.sha256(text.encode()).hexdigest())
