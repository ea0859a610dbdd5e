"""A photograph's file name of any bytes is made storable before a miner is asked, and goes through a whole round."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from PIL import Image
from skimage import data

from perturb.models.classifier import load_classifier
from perturb.models.judge.judge import load_judge
from perturb.schemas.challenge import Challenge
from perturb.schemas.printable import printable_name
from perturb.schemas.settings import JudgeSettings, Settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.directory import DirectoryStore
from perturb.sources.folder import FolderSource
from perturb.tasks.challenge.package import make_challenge
from tests.support.small_corpora import commit, seal, small

FOLDER, NAME = b"n07920052-caf\xe9", b"tass\xff\n\x1b]0;owned\x07.png"


def test_a_name_that_is_not_utf_8_goes_through_a_whole_round(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / os.fsdecode(FOLDER)
    folder.mkdir(parents=True)
    Image.fromarray(data.coffee()).save(folder / os.fsdecode(NAME), "PNG")
    (photo,) = islice(FolderSource(tmp_path / "photos").photos(seed=1), 1)
    stored = r"n07920052-caf\xe9/tass\xff\x0a\x1b]0;owned\x07.png"
    assert photo.source_id == stored
    assert stored == printable_name(os.fsdecode(FOLDER + b"/" + NAME))

    judge = load_judge(JudgeSettings(name="none"), cache=tmp_path)
    classifier = load_classifier(Settings().classifier)
    challenge = make_challenge(photo, classifier=classifier, judge=judge, settings=Settings(), now=datetime.now(UTC))
    assert isinstance(challenge, Challenge)

    corpus = Corpus(DirectoryStore(tmp_path / "corpus"))
    made = small(1)
    assert commit(corpus, replace(made, challenge=replace(made.challenge, origin=challenge.origin)))
    for step in (lambda: None, lambda: seal(corpus)):
        step()
        assert set(corpus.table(columns=["source_id"])["source_id"].to_pylist()) == {stored}
