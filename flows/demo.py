"""The demonstration: every station of the line once, on the embedded profile, in one process."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.export import export
from flows.produce import ProduceSummary, produce
from flows.seal import seal
from schemas.settings import load_settings
from sinks.corpus import Corpus
from sinks.store import open_store
from tasks.audit import audit
from tasks.readback import ReadBack, read_back
from tasks.show import contact_sheet, pairs_of_corpus

TIERS = ("sample", "research")
LOCAL_MINERS = 5


class DemoSummary(BaseModel):
    """What the demo left behind, and what its consumers read from it."""

    produced: ProduceSummary
    sealed_day: str
    sealed_records: int
    exports: dict[str, int]
    read_back: dict[str, Any]
    picture: str
    faults: int
