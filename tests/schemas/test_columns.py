"""The columns of each version of the corpus format. Names and types of a version that was released never change."""

import hashlib

from perturb.schemas.record import record_schema
from perturb.sinks.formats.version import FORMAT

# Format version -> number of columns, and the digest of their names and types.
COLUMNS = {1: (72, "1a3053362e0a0e12ec52bd06d05bfb3358ffe1624ad0817f7ef6d30e93e35154")}


def test_other_columns_are_another_format() -> None:
    """To add a column, raise `FORMAT` and add a line above. An older program then says that it must be upgraded."""
    schema = record_schema()
    text = "\n".join(f"{field.name}: {field.type}" for field in schema)
    assert COLUMNS[FORMAT] == (len(schema), hashlib.sha256(text.encode()).hexdigest())
