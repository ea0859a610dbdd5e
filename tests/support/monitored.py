"""Days and names of the small corpus that the tests of status and cost look at."""

from datetime import date

YESTERDAY, TODAY = date(2026, 3, 1), date(2026, 3, 2)
HOSTILE = "<script>alert(1)</script>"
