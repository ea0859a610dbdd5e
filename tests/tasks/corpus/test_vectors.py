"""The test vectors, checked as another implementation would: with a JSON library of RFC 8785 and sha256 alone."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from perturb.tasks.corpus.consistency import parse_consistency
from perturb.tasks.corpus.prove import check_proof, parse_proof
from tests.support.corpora import VALIDATOR

VECTORS = Path(__file__).parent / "vectors"
TREE = json.loads((VECTORS / "tree.json").read_bytes())
# Node's JSON.stringify writes numbers and strings as RFC 8785 wants; keys are sorted by UTF-16 code units.
_NODE = """
const canonical = v => v === null || typeof v !== "object" ? JSON.stringify(v)
  : Array.isArray(v) ? "[" + v.map(canonical).join(",") + "]"
  : "{" + Object.keys(v).sort().map(k => JSON.stringify(k) + ":" + canonical(v[k])).join(",") + "}";
const values = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(values.map(canonical)));
"""


def leaf(value: Any) -> bytes:
    return hashlib.sha256(b"\x00" + rfc8785.dumps(value)).digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node(root(leaves[:split]), root(leaves[split:]))


def led_to(value: bytes, index: int, size: int, path: list[str]) -> str:
    """docs/corpus.md, "A proof without the program"."""
    steps = iter(bytes.fromhex(step) for step in path)
    while size > 1:
        if index % 2:
            value = node(next(steps), value)
        elif index + 1 < size:
            value = node(value, next(steps))
        index, size = index // 2, (size + 1) // 2
    assert next(steps, None) is None
    return value.hex()


def test_records_and_entries_make_the_roots() -> None:
    ids = [record["record_id"] for record in TREE["records"]]
    assert ids == sorted(ids)
    assert root([leaf(record) for record in TREE["records"]]).hex() == TREE["day_root"]
    leaves = [leaf(entry) for entry in TREE["entries"]]
    assert [root(leaves[: size + 1]).hex() for size in range(len(leaves))] == TREE["log_roots"]
    assert TREE["entries"][0]["detail"]["merkle_root"] == TREE["day_root"]


def test_the_proofs_lead_to_the_roots() -> None:
    proof = json.loads((VECTORS / "record.proof.json").read_bytes())
    entry = proof["entry"]
    day_root = led_to(leaf(proof["record"]), proof["index"], proof["size"], proof["path"])
    assert day_root == entry["detail"]["merkle_root"] == TREE["day_root"]
    log_root = led_to(leaf(entry), entry["sequence"], proof["head"]["size"], proof["log_path"])
    assert log_root == proof["head"]["root"] == TREE["log_roots"][2]
    growth = json.loads((VECTORS / "log-3-4.consistency.json").read_bytes())
    assert [growth["old"]["root"], growth["new"]["root"]] == TREE["log_roots"][2:]
    # The tree of 3 leaves is (0, 1), 2; that of 4 is (0, 1), (2, 3). The proof is: leaf 2, leaf 3, node (0, 1).
    third, fourth, pair = map(bytes.fromhex, growth["path"])
    assert node(pair, third).hex() == growth["old"]["root"]
    assert node(pair, node(third, fourth)).hex() == growth["new"]["root"]


def test_the_program_reads_its_own_vectors() -> None:
    from perturb.schemas.trust import Trust

    trust = Trust(frozenset({VALIDATOR.ss58_address}))
    proof = parse_proof((VECTORS / "record.proof.json").read_bytes(), "p")
    growth = parse_consistency((VECTORS / "log-3-4.consistency.json").read_bytes(), "c")
    assert check_proof(proof, trust=trust, root=TREE["log_roots"][3], consistency=growth).holds


@pytest.mark.skipif(shutil.which("node") is None, reason="node is missing: apt-get install nodejs")
def test_javascript_writes_the_same_bytes() -> None:
    values = TREE["records"] + TREE["entries"]
    done = subprocess.run(
        ["node", "-e", _NODE], input=json.dumps(values), capture_output=True, text=True, check=True, timeout=60
    )
    assert [text.encode() for text in json.loads(done.stdout)] == [rfc8785.dumps(value) for value in values]
