"""What a miner's signature binds: the terms of the challenge, through the task's id."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturb.schemas.bounds import Bounds
from perturb.schemas.challenge import Challenge, Origin, Task
from perturb.schemas.image import encode_png
from perturb.schemas.record import Record, make_record
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from perturb.subnet.keys import development_keypair
from perturb.subnet.wire import WireError, pack_request, unpack_request
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.commit import commit_records
from tests.support.small_corpora import small, whats
from tests.support.tasks import make_task

VALIDATOR = development_keypair("//PerturbValidator")
# Column by column, what a validator might want to have asked afterwards.
CHANGES: list[dict[str, Any]] = [
    {"epsilon_min": 2 / 255},
    {"epsilon": 4 / 255},
    {"min_psnr": 60.0},
    {"min_ssim": 0.999},
    {"min_margin": 9.0},
    {"true_label": 3},
    {"true_label_name": "hen"},
    {"classifier": "another"},
    {"classifier_sha256": "1" * 64},
    {"norm_type": "l2"},
    {"timeout_ms": 1},
    {"height": 31},
    {"width": 31},
    {"original_sha256": "1" * 64},
    {"excluded_labels": (1,)},
    {"task_salt": "1" * 32},
    {"task_id": "1" * 64},
]


def _records() -> tuple[list[Record], bytes, dict[str, bytes]]:
    made = small(5, validator=VALIDATOR.ss58_address)
    records = [
        make_record(made.challenge, *parts, netuid=26, block=1, validator_hotkey=VALIDATOR.ss58_address)
        for parts in zip(made.responses, made.verdicts, made.scores, strict=True)
    ]
    bodies = {record.record_id: response.body for record, response in zip(records, made.responses, strict=True)}
    return records, made.challenge.png, {r.record_id: bodies[r.record_id] for r in records if r.outcome == "accepted"}


def _faults(root: Path, changes: dict[str, Any]) -> str:
    """Commit a round whose validator changes columns of every record after the answers, and audit it."""
    records, png, bodies = _records()
    corpus = Corpus(open_store(str(root)))
    commit_records(corpus, [record.model_copy(update=changes) for record in records], png, bodies, signer=VALIDATOR)
    return whats(audit(corpus, sample=0))


def test_a_round_as_it_was_answered_has_no_fault(tmp_path: Path) -> None:
    assert _faults(tmp_path, {}) == ""


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: next(iter(changes)))
def test_terms_that_a_validator_changes_afterwards_are_a_fault(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert "is not the digest of the terms" in _faults(tmp_path, changes)


def test_every_term_is_tried_above() -> None:
    tried = {name for changes in CHANGES for name in changes}
    assert tried == {*Task.model_fields} - {"bounds"} | {*Bounds.model_fields}


def test_a_refusal_that_is_made_up_from_a_good_answer_is_a_fault(tmp_path: Path) -> None:
    records, png, bodies = _records()
    framed = records[0].model_copy(
        update={"epsilon_min": 2 / 255, "outcome": "linf_too_small", "quality": 0.0, "speed": 0.0, "score": 0.0}
    )
    corpus = Corpus(open_store(str(tmp_path)))
    bodies.pop(framed.record_id)
    commit_records(corpus, [framed, *records[1:]], png, bodies, signer=VALIDATOR)
    (fault,) = audit(corpus, sample=0).faults
    assert framed.record_id in fault.where
    assert "is not the digest of the terms" in fault.what


def _challenge(task: Task) -> Challenge:
    origin = Origin(source="sample", source_id="1", clean_confidence=1, clean_margin=1, judge="none")
    return Challenge("r", datetime.now(UTC), task, origin, encode_png(np.zeros((task.height, task.width, 3), np.uint8)))


@given(st.integers(0, 2**128 - 1), st.sampled_from(sorted(Task.model_fields)), st.data())
def test_a_miner_refuses_a_task_whose_id_does_not_fit(number: int, name: str, data: st.DataObject) -> None:
    task = make_task(number=number)
    honest = _challenge(task)
    assert unpack_request(pack_request(honest))[0] == task
    others: dict[str, Any] = {
        "task_id": "0" * 64,
        "task_salt": f"{number ^ 1:032x}",
        "bounds": Bounds(min_margin=data.draw(st.floats(0.6, 100))),
        "excluded_labels": (data.draw(st.integers(0, 999)),),
    }
    value = getattr(task, name)
    other = others.get(name, value + 1 if isinstance(value, int) else f"{value}x")
    with pytest.raises(WireError, match="is not the digest of the task's terms"):
        unpack_request(pack_request(replace(honest, task=task.model_copy(update={name: other}))))


def test_two_challenges_on_one_photograph_have_two_ids() -> None:
    first, second = make_task(number=1), make_task(number=2)
    assert first.original_sha256 == second.original_sha256
    assert first.task_id != second.task_id
    assert first.task_id == make_task(number=1).task_id
