"""The model track from commitments to weights, with reference defenders as processes, and hostile candidates."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from pydantic import SecretStr

from perturb.models.classifier import load_classifier
from perturb.schemas.commitment import Committed, ModelCommitment
from perturb.schemas.errors import CorpusError
from perturb.schemas.model_track import CandidateCard, TrackResult
from perturb.schemas.settings import ModelTrackSettings, Settings, load_settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.log.log import Log
from perturb.sinks.stores.open import open_store
from perturb.sinks.targets.registry import Registry
from perturb.sinks.targets.track_results import append_result, newest_result
from perturb.subnet.keys import development_keypair, load_keypair
from perturb.subnet.roster import add_commitment, read_roster
from perturb.subnet.trust import load_trust
from perturb.tasks.lineup.add import as_safetensors
from perturb.tasks.lineup.find import load_target
from perturb.tasks.model_track.check import check_committed, check_weights
from perturb.tasks.model_track.commitments import read_commitments
from perturb.tasks.model_track.evaluate import evaluate_models
from perturb.tasks.weights.weigh import weigh_miners
from tests.support.attacked_corpus import seal_attacked
from tests.support.commands import ROOT, perturb
from tests.support.weights_server import serving

COUNT, MINERS = 8, 2
NAMES = ("honest", "masked", "copy", "stolen", "pickle", "shapes", "nan", "endless", "huge", "private", "text", "gone")
HOTKEYS = {name: development_keypair(f"//Track/{name}").ss58_address for name in NAMES}
BARE = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"


@dataclass(frozen=True)
class Track:
    """A store with a sealed day, and the result of an evaluation of all the candidates."""

    settings: Settings
    result: TrackResult

    def card(self, name: str) -> CandidateCard:
        """Return the card of one candidate."""
        return next(card for card in self.result.candidates if card.hotkey == HOTKEYS[name])


def validator_settings(folder: Path) -> Settings:
    settings = load_settings(store=str(folder / "store"))
    roster = folder / "roster.toml"
    roster.write_text(
        "".join(
            f'[[neuron]]\nuid = {uid}\nhotkey = "{hotkey}"\nendpoint = "127.0.0.1:{9000 + uid}"\n'
            for uid, hotkey in enumerate(HOTKEYS.values())
        )
    )
    subnet = settings.subnet.model_copy(update={"roster": roster, "hotkey_uri": SecretStr("//PerturbValidator")})
    track = ModelTrackSettings(age_hours=0, attacked=2, max_bytes=50 * 2**20, fetch_seconds=20)
    classifier = settings.classifier.model_copy(update={"input_size": 96})
    changes = {"subnet": subnet, "model_track": track, "classifier": classifier, "cache_dir": folder / "cache"}
    return settings.model_copy(update=changes)


@contextmanager
def defender(kind: str, folder: Path, roster: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a miner that makes a network, commits to it and serves it."""
    own = folder / kind
    own.mkdir()
    command = [sys.executable, "-m", "tests.support.defender", kind, f"//Track/{kind}", str(own), str(roster)]
    with subprocess.Popen(
        [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        yield process


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def commit_hostile(roster: Path, folder: Path, address: str) -> None:
    """Commit to what should cost one card each; the files are in `folder`, which is served at `address`."""
    embedded = load_classifier(load_settings().classifier).module.net.state_dict()
    wrong = {name: tensor[:1] if name == "classifier.bias" else tensor for name, tensor in embedded.items()}
    nan = {name: tensor * float("nan") if name == "classifier.bias" else tensor for name, tensor in embedded.items()}
    files = {"shapes": as_safetensors(wrong), "nan": as_safetensors(nan)}
    torch.save(embedded, folder / "pickle")
    files["pickle"] = (folder / "pickle").read_bytes()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    paths = {"private": "to/http://10.0.0.5/weights", "gone": "missing"}
    now = int(time.time())
    for name in ("pickle", "shapes", "nan", "endless", "huge", "private", "gone"):
        url = f"{address}/{paths.get(name, name)}"
        text = ModelCommitment.of(files.get(name, BARE), hotkey=HOTKEYS[name], url=url).text()
        add_commitment(roster, Committed(hotkey=HOTKEYS[name], text=text, at=now))
    add_commitment(roster, Committed(hotkey=HOTKEYS["text"], text="a greeting", at=now))


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Track]:
    folder = tmp_path_factory.mktemp("track")
    settings = validator_settings(folder)
    roster = settings.subnet.roster
    assert roster is not None
    seal_attacked(
        Corpus(open_store(settings.store)), load_classifier(settings.classifier), count=COUNT, miners=MINERS,
        signer=load_keypair(settings.subnet),
    )  # fmt: skip
    hostile = folder / "hostile"
    hostile.mkdir()
    with ExitStack() as stack:
        honest, masked = (stack.enter_context(defender(kind, folder, roster)) for kind in ("honest", "masked"))
        copy = stack.enter_context(defender("copy", folder, roster, url_of(honest)))
        commit_hostile(roster, hostile, stack.enter_context(serving(hostile)))
        assert url_of(masked)
        assert url_of(copy)
        # A commitment is there for everyone to read: somebody else repeats the honest one.
        (text,) = (one.text for one in read_roster(roster).commitments if one.hotkey == HOTKEYS["honest"])
        add_commitment(roster, Committed(hotkey=HOTKEYS["stolen"], text=text, at=int(time.time())))
        now = datetime.now(UTC) + timedelta(seconds=2)
        yield Track(settings, evaluate_models(settings, now=now, fewest=COUNT))


@pytest.mark.slow
def test_the_honest_network_wins_and_a_copy_or_a_masked_one_gets_nothing(track: Track) -> None:
    result, honest, masked, copy = track.result, track.card("honest"), track.card("masked"), track.card("copy")
    assert result.winner == HOTKEYS["honest"]
    assert honest.outcome == "winner"
    assert honest.score is not None
    assert result.baseline is not None
    assert result.baseline.target == "lite0-g0"
    assert honest.score.total > result.baseline.score.total + result.epsilon
    assert honest.score.old > result.baseline.score.old
    assert masked.outcome == "refused"
    assert masked.reason.startswith("refused: not masked")
    # Whatever its logits are multiplied by, it gives the labels of the embedded network.
    assert masked.card is not None
    assert masked.card.clean is not None
    assert masked.card.clean.against_first.value == 0
    assert copy.outcome == "refused"
    assert copy.sha256 == honest.sha256
    assert copy.reason == f"the weights are those of {HOTKEYS['honest']}, who committed to them earlier"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("stolen", "is not what this hotkey committed to"),
        ("pickle", "not safetensors"),
        ("shapes", "the tensor for classifier.bias has shape (1,), the network needs (1000,)"),
        ("nan", "refused: sound: finite logits on 0 of 8 images"),
        ("endless", "no Content-Length"),
        ("huge", "10,000,000,000 bytes are announced, at most 52,428,800 are accepted"),
        ("private", "10.0.0.5 is private"),
        ("text", "the commitment is not JSON"),
        ("gone", "HTTP status 404"),
    ],
)
def test_a_hostile_candidate_costs_one_card_with_a_reason(track: Track, name: str, reason: str) -> None:
    card = track.card(name)
    assert card.outcome == "refused"
    assert reason in card.reason
    assert card.score is None


@pytest.mark.slow
def test_the_result_is_in_the_log_and_its_winner_in_the_registry_and_is_paid(track: Track) -> None:
    settings = track.settings
    trust = load_trust(settings.subnet)
    assert newest_result(open_store(settings.store), trust) == track.result
    assert track.result.target is not None
    target = Registry.open(settings).get(track.result.target)
    assert target.sha256 == track.card("honest").sha256
    assert load_target(settings, target).height == 96
    weighed = weigh_miners(settings)
    assert weighed.model_winner == HOTKEYS["honest"]
    # No miner has answered enough challenges, so that the share of scanning goes to the model track.
    assert weighed.weights == {0: 1.0}
    store = open_store(settings.store)
    (key,) = (entry.key for entry in store.entries("model-track/"))
    kept = store.get(key)
    try:
        store.put(key, kept.replace(b'"winner":', b'"winner" :'))
        with pytest.raises(CorpusError, match="is not the document of"):
            newest_result(store, trust)
        # Scanning is paid all the same.
        assert weigh_miners(settings).model_winner is None
    finally:
        store.put(key, kept)
    # Somebody who can write to the store enters a result of their own: it is passed over.
    forged = track.result.model_copy(update={"winner": HOTKEYS["copy"], "target": None})
    append_result(Log(store), forged, signer=development_keypair("//Stranger"), at=datetime.now(UTC))
    assert newest_result(store, trust) == track.result
    assert weigh_miners(settings).model_winner == HOTKEYS["honest"]


@pytest.mark.slow
def test_a_commitment_counts_when_it_is_old_enough(track: Track, tmp_path: Path) -> None:
    young = track.settings.model_track.model_copy(update={"age_hours": 24})
    settings = track.settings.model_copy(update={"model_track": young, "store": str(tmp_path / "other")})
    result = evaluate_models(settings)
    assert [card.hotkey for card in result.candidates] == []
    assert result.winner is None
    tomorrow = datetime.now(UTC) + timedelta(hours=25)
    assert {one.hotkey for one in read_commitments(settings, tomorrow).found} == set(HOTKEYS.values())


@pytest.mark.slow
def test_a_miner_checks_what_it_has_and_what_it_committed_to(track: Track) -> None:
    settings = track.settings
    roster = settings.subnet.roster
    assert roster is not None
    commitments = {one.hotkey: one for one in read_roster(roster).commitments}
    assert check_committed(settings, commitments[HOTKEYS["honest"]]) is None
    assert "is not what" in str(check_committed(settings, commitments[HOTKEYS["stolen"]]))
    assert "not safetensors" in str(check_weights(settings, b"PK"))
    another = check_weights(settings, as_safetensors({"a": torch.zeros(1)}))
    assert str(another).endswith("validators measure tf_efficientnet_lite0 only")
    assert "/missing cannot be fetched: HTTP status 404" in str(check_committed(settings, commitments[HOTKEYS["gone"]]))
    dead = settings.model_track.model_copy(update={"memory_bytes": 2**20})
    assert check_weights(settings.model_copy(update={"model_track": dead}), defended()) is not None
    slow = settings.model_track.model_copy(update={"measure_seconds": 0.1})
    refusal = check_weights(settings.model_copy(update={"model_track": slow}), defended())
    assert refusal == "measuring took more than 0.1 s"


@pytest.mark.slow
def test_a_miner_commits_and_everyone_sees_the_result_by_command(track: Track, tmp_path: Path) -> None:
    roster = tmp_path / "roster.toml"
    roster.write_text(f'[[neuron]]\nuid = 0\nhotkey = "{HOTKEYS["gone"]}"\nendpoint = "127.0.0.1:9000"\n')
    (tmp_path / "weights").write_bytes(b"PK")
    miner = {"PERTURB_SUBNET__ROSTER": str(roster), "PERTURB_SUBNET__HOTKEY_URI": "//Track/gone"}
    command = ("model", "commit", "weights", "--url")
    pickled = perturb(*command, "https://example.org/w", cwd=tmp_path, **miner)
    assert (pickled.returncode, "WEIGHTS weights is not safetensors" in pickled.stderr) == (2, True)
    (tmp_path / "weights").write_bytes(BARE)
    refused = perturb(*command, "ftp://x", cwd=tmp_path, **miner)
    assert refused.returncode == 2
    assert "is not an address" in refused.stderr
    assert perturb(*command, "https://example.org/w", cwd=tmp_path, **miner).returncode == 0
    (committed,) = read_roster(roster).commitments
    assert committed.text == ModelCommitment.of(BARE, hotkey=HOTKEYS["gone"], url="https://example.org/w").text()
    validator = {"PERTURB_SUBNET__HOTKEY_URI": "//PerturbValidator", "PERTURB_STORE": track.settings.store}
    shown = perturb("model", "result", "--json", cwd=tmp_path, **validator)
    assert TrackResult.model_validate_json(shown.stdout.splitlines()[-1]) == track.result


def defended() -> bytes:
    return as_safetensors(load_classifier(load_settings().classifier).module.net.state_dict())
