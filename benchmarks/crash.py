"""Kill the processes that write a corpus many times, and check that nothing was lost, doubled or left over.

    python benchmarks/crash.py --kills 200 --store directory
    python benchmarks/crash.py --kills 40 --boundaries 140 --steps seal,enter,together --store directory
    python benchmarks/crash.py --kills 200 --store seaweedfs
    python benchmarks/crash.py --kills 20 --store s3://bucket/prefix        # settings and credentials as for perturb
    python benchmarks/crash.py --kills 5 --store directory --real           # the `perturb` command itself, slowly

A step (producing, sealing, entering documents in the log, exporting, collecting garbage) runs in a process of its own,
on synthetic rounds through the same functions that production uses. First every boundary between two operations of a
step on the store (and, for a directory, on the file system) is met by a SIGKILL once, `--boundaries` at most; then
kills fall at random moments, also on two sealers and a writer of the log that run at once. After each, the step is
started again and finishes; then the corpus must audit clean, every round and every entry that was acknowledged must be
there, no record, entry or day may be there twice, and once garbage was collected nothing may be left that no commit
claims.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.crash import main

if __name__ == "__main__":
    main()
