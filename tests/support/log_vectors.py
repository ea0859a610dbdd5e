"""Writes the test vectors of the log: `python -m tests.support.log_vectors tests/tasks/corpus/vectors`.

They are for implementations in other languages too, so they are files. Write them again only when the format changes.
"""

import json
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.trust import Trust
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.formats.merkle import canonical_record
from perturb.sinks.log.entry import NewEntry
from perturb.sinks.log.log import Log
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.consistency import prove_consistency
from perturb.tasks.corpus.prove import prove
from tests.support.corpora import VALIDATOR
from tests.support.small_corpora import TODAY, commit, seal, small

_AT = datetime(2026, 2, 9, tzinfo=UTC)


def main(folder: Path) -> None:
    """Make a corpus of two sealed days and a plan, and write what others have to compute from it."""
    trust = Trust(frozenset({VALIDATOR.ss58_address}))
    with tempfile.TemporaryDirectory() as place:
        corpus = Corpus(open_store(place))
        log = Log(corpus.store, trust=trust)
        for offset in range(2):
            created_at = datetime(2026, 1, 31, 9, tzinfo=UTC) + timedelta(days=offset)
            commit(corpus, small(offset, created_at=created_at, validator=VALIDATOR.ss58_address), VALIDATOR)
            seal(corpus, TODAY + timedelta(days=offset), signer=VALIDATOR, now=lambda: _AT)
            plan = NewEntry(kind="plan", key=f"certificates/{offset}/plan.json", sha256=f"{offset:064x}")
            log.append(plan, signer=VALIDATOR, at=_AT)
        manifest = corpus.manifest(TODAY)
        assert manifest is not None
        rows = [row for batch in corpus.rows(manifest) for row in batch]
        vectors = {
            "records": [json.loads(canonical_json(canonical_record(row))) for row in rows],
            "day_root": manifest.merkle_root,
            "entries": [record.entry.model_dump(mode="json") for record in log.records()],
            "log_roots": [record.head.root for record in log.records()],
        }
        (folder / "tree.json").write_bytes(canonical_json(vectors))
        (folder / "record.proof.json").write_bytes(prove(corpus, rows[1]["record_id"], entries=3).to_json())
        (folder / "log-3-4.consistency.json").write_bytes(prove_consistency(log, 3, 4).to_json())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
