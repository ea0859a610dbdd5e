"""Certificates beside a corpus, a chain and networks of other kinds: records attack and refute, scores are enough."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from perturb.certificates.aging import challenge
from perturb.certificates.autoattack import breaks, run_autoattack
from perturb.certificates.beacon import is_genuine, obtain, round_after, time_of
from perturb.certificates.entries import open_log
from perturb.certificates.folder import CertificateFolder, clean_name, unpack
from perturb.certificates.places import located
from perturb.certificates.planning import PlanRequest, plan_certificate
from perturb.certificates.run import run_certificate
from perturb.certificates.statement import SCORES_ONLY
from perturb.certificates.subject import Subject, load_subject
from perturb.certificates.tables import RESULTS, read_table
from perturb.certificates.verify import Request, trusts, verify
from perturb.sandbox.stored import decode_stored
from perturb.schemas.errors import AuditError, CorpusError, ModelError, SettingsError
from perturb.schemas.image import Pixels, encode_png
from perturb.schemas.settings import SealSettings, Settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from perturb.sinks.targets.registry import Registry
from perturb.subnet.chain import BittensorChain
from perturb.tasks.corpus.commit import commit_records
from perturb.tasks.corpus.seal import seal_day
from perturb.tasks.lineup.add import add_first_generation
from tests.certificates.conftest import Made
from tests.support import networks
from tests.support.certificates import NOW, ROUND_8, ROUND_1000, SMALL, certified, planned
from tests.support.corpora import VALIDATOR, make_row
from tests.support.fake_chain import FakeSubstrate

DAY = date(2026, 1, 31)
LEVEL = 12


def sealed_record(store: str, original: Pixels, perturbed: Pixels) -> str:
    """Commit and seal one accepted record; return its id."""
    body = encode_png(perturbed)
    changes: dict[str, Any] = {"height": 32, "width": 32}
    record = make_row(DAY, number=1, miner=0, original=original, perturbed=perturbed, body=body, **changes)
    corpus = Corpus(open_store(store))
    commit_records(corpus, [record], encode_png(original), {record.record_id: body}, signer=VALIDATOR)
    settings = SealSettings(grace_minutes=0, reverify_fraction=0)
    seal_day(corpus, DAY, settings=settings, early=True, signer=VALIDATOR)
    return record.record_id


def trusting(made: Made, store: Path) -> Settings:
    subnet = made.settings.subnet.model_copy(update={"trusted_validators": (VALIDATOR.ss58_address,)})
    return made.settings.model_copy(update={"store": str(store), "subnet": subnet})


def images_of(file: Path) -> tuple[list[dict[str, Any]], dict[str, Pixels]]:
    rows = read_table((file.parent / "results.parquet").read_bytes(), RESULTS, "")
    members = unpack((file.parent / "evidence.tar").read_bytes(), "")
    clean = {row["identity"]: members[clean_name(row["identity"])] for row in rows}
    pixels = decode_stored([(png, 32, 32) for png in clean.values()])
    return rows, dict(zip(clean, pixels, strict=True))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_record_refutes_what_a_masked_network_survived(made: Made, tmp_path: Path) -> None:
    """Its zero gradients stopped the attacks; a record made on the network behind the mask does not stop there."""
    settings = trusting(made, tmp_path / "store")
    masked = "tests.support.networks:masked"
    plan = planned(
        settings, tmp_path, made.pool, n=3, subject=masked, levels=(LEVEL,), log=True, beacon=False, claims=()
    )
    file = certified(settings, plan, log=True)
    subject = load_subject(masked, settings.classifier)
    small = load_subject(SMALL, settings.classifier)
    rows, pixels = images_of(file)
    survivors = [row for row in rows if row["status"] == "survived"]
    assert survivors
    for row in survivors:
        clean = pixels[row["identity"]]
        found = run_autoattack(
            small.classifier, clean, row["label"], level=LEVEL, seed=1, attacks=("apgd-ce",), early_stop=False
        ).found
        stronger = np.clip(clean + LEVEL * np.sign(found.astype(int) - clean), 0, 255).astype(np.uint8)  # type: ignore[union-attr]
        if breaks(subject.classifier, stronger, row["label"]):
            break
    record_id = sealed_record(settings.store, clean, stronger)
    with pytest.raises(CorpusError, match="has an accepted record 2026"):
        challenge(settings, file, "20260131" + "0" * 24, subject)
    with pytest.raises(AuditError, match="not those of the certificate"):
        challenge(settings, file, record_id, small)
    with pytest.raises(
        AuditError, match=r"a photograph that the certificate's sample does not have|nothing is refuted"
    ):
        challenge(settings, made.file, record_id, small)
    entry = challenge(settings, file, record_id, subject).entry
    assert entry.detail["level"] == LEVEL

    def masked_subject(_: object) -> Subject:
        return subject

    found_now = verify(Request(file, None, trusts([]), NOW, masked_subject, log=open_log(settings)))
    assert found_now.holds, found_now.levels
    assert found_now.status.startswith(f"refuted at level {LEVEL} by {record_id}")


@pytest.mark.slow
def test_the_records_of_a_corpus_attack_too(made: Made, tmp_path: Path) -> None:
    rows, pixels = images_of(made.file)
    row = next(row for row in rows if row["by"])
    small = load_subject(SMALL, made.settings.classifier)
    clean = pixels[row["identity"]]
    found = run_autoattack(small.classifier, clean, row["label"], level=8, seed=1, attacks=("apgd-ce",)).found
    assert found is not None
    settings = trusting(made, tmp_path / "store")
    record_id = sealed_record(settings.store, clean, found)
    pool = f"folder:{made.pool}"
    request = PlanRequest(SMALL, pool, 24, levels=(16,), crowd=settings.store)
    plan = plan_certificate(settings, request, folder=tmp_path, log=False)
    summary = run_certificate(settings, plan.folder, workers=1, log=False)
    assert summary.certificate is not None
    found_now = replace(made, file=summary.certificate).verified()
    assert found_now.holds, found_now.levels
    compared = found_now.statement["predicate"]["robustness"]["crowdAgainstAutoAttack"][0]
    assert (compared["both"], compared["only_crowd"]) == (1, 0)
    assert compared["only_autoattack"] > 10
    kept = CertificateFolder(plan.folder).work("crowd")
    assert kept == {"records": [record_id]}


def onnx_file(path: Path) -> Path:
    """`networks.small` as an ONNX file."""
    layers = networks.small().module
    nodes, weights, name = [], [], "input"
    for place, layer in enumerate(layers):  # type: ignore[arg-type]
        kind = type(layer).__name__
        names = []
        for part in ("weight", "bias"):
            if kind in ("Conv2d", "Linear"):
                weights.append(numpy_helper.from_array(getattr(layer, part).detach().numpy(), f"{part}{place}"))
                names.append(f"{part}{place}")
        operation = {"Conv2d": "Conv", "ReLU": "Relu", "Flatten": "Flatten", "Linear": "Gemm"}[kind]
        extra: dict[str, Any] = {"strides": list(layer.stride)} if kind == "Conv2d" else {}
        extra |= {"transB": 1} if kind == "Linear" else {}
        nodes.append(helper.make_node(operation, [name, *names], [f"out{place}"], **extra))
        name = f"out{place}"
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 32, 32])
    made = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "small", [given], [made], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_an_onnx_file_is_attacked_by_scores_only_and_says_so(made: Made, tmp_path: Path) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(networks.CLASSES))
    file = onnx_file(tmp_path / "small.onnx")
    request = PlanRequest(str(file), f"folder:{made.pool}", 3, levels=(32,), classes=names)
    plan = plan_certificate(made.settings, request, folder=tmp_path, log=False)
    assert plan.plan.suite.attacks == ("square",)
    summary = run_certificate(made.settings, plan.folder, workers=1, log=False)
    assert summary.certificate is not None
    subject = load_subject(str(file), made.settings.classifier, classes=names)
    found = verify(Request(summary.certificate, None, trusts([]), NOW, lambda _: subject))
    assert found.holds, found.levels
    block = found.statement["predicate"]["robustness"]
    assert SCORES_ONLY in block["doesNotSay"]
    assert block["canary"] == {"found": 20, "of": 20}
    assert block["levels"][0]["broken"] > 0
    assert block["threatModel"]["atlas"] == ["AML.T0015", "AML.T0043.001"]
    names.write_text("one\ntwo")
    with pytest.raises(SettingsError, match="--classes has 2 names"):
        load_subject(str(file), made.settings.classifier, classes=names)


def test_the_beacon_comes_from_the_chain_and_is_checked_offline() -> None:
    substrate = FakeSubstrate()
    signature = bytes.fromhex(str(ROUND_1000["signature"]))
    substrate.storage["Pulses"] = lambda number: (
        {"round": 1000, "signature": list(signature)} if number == 1000 else None
    )
    chain = BittensorChain("finney", 26, substrate=substrate)  # type: ignore[arg-type]
    pulse = obtain("chain", 1000, chain=chain)
    assert pulse.randomness.hex() == "fe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd"
    with pytest.raises(SettingsError, match="the chain does not have round 1001"):
        obtain("chain", 1001, chain=chain)
    with pytest.raises(SettingsError, match="needs a chain"):
        obtain("chain", 1000)
    assert not is_genuine(pulse.model_copy(update={"signature": ROUND_8["signature"]}))
    assert time_of(round_after(time_of(940))) == time_of(960)


def test_a_target_of_the_registry_is_a_subject(made: Made, tmp_path: Path) -> None:
    settings = made.settings.model_copy(update={"store": str(tmp_path / "store")})
    target = add_first_generation(Registry.open(settings), settings)
    subject = load_subject(*located(f"target:{target.name}", settings))
    assert subject.description.sha256 == target.sha256
    assert located("resnet18", settings) == ("resnet18", settings.classifier)
    with pytest.raises(ModelError, match="'nobody' is not in the registry"):
        located("target:nobody", settings)
