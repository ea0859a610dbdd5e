"""The curve of each scoring policy, as the table that docs/scoring.md shows.

    python benchmarks/scoring.py

Quality under the default bounds (1 to 8 levels) and the score at 1 s of 20 s. The last line is a JSON object.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from perturb.tasks.verify.score import POLICIES
from tests.support.scoring_curve import CASES, points, table

if __name__ == "__main__":
    print("\n".join(table()))
    print(json.dumps({policy: {what: points(n, s, policy=policy)[0] for what, n, s in CASES} for policy in POLICIES}))
