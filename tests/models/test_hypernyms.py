"""The table of hypernyms: how far a flip goes, and which flips a subject covers."""

import re
from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturb.models import hypernyms
from perturb.models.hypernyms import SEVERE_HEIGHT, ancestors, classes_below, covered_labels, hypernym_height, synsets
from perturb.models.hypernyms_table import hypernyms_table
from perturb.models.labels import imagenet_labels
from perturb.schemas.errors import ModelError

INDEX = {label.name: label.index for label in reversed(imagenet_labels())}
LABELS = st.integers(0, 999)


def names(subject: str | None, true_label: str) -> set[str]:
    return {imagenet_labels()[index].name for index in covered_labels(subject, INDEX[true_label])}


def test_every_class_is_an_entity() -> None:
    assert len(imagenet_labels()) == 1000 == len(classes_below("n00001740"))
    for label in imagenet_labels():
        assert synsets()[label.synset].names == label.names, "the table and timm quote the same WordNet"


@settings(max_examples=300, deadline=None)
@given(LABELS, LABELS)
def test_height_is_that_of_the_smallest_kind_of_both(first: int, second: int) -> None:
    """Against the definition, computed another way: by walking down from each shared kind."""
    found = hypernym_height(first, second)
    assert found == hypernym_height(second, first)
    assert (found == 0) == (first == second)

    def depth(synset: str) -> int:
        below = [key for key, entry in synsets().items() if synset in entry.hypernyms]
        return reduce(max, (1 + depth(key) for key in below), 0)

    one, other = (imagenet_labels()[index].synset for index in (first, second))
    kinds = {synset for synset in ancestors(one) & ancestors(other) if {first, second} <= classes_below(synset)}
    lowest = min(kinds, key=lambda synset: (hypernyms.height(synset), synset))
    assert depth(lowest) == found if found < 6 else hypernyms.height(lowest) == found <= 18


@pytest.mark.parametrize(
    ("first", "second", "severe"),
    [
        ("Egyptian cat", "tiger cat", False),
        ("malamute", "Egyptian cat", False),
        ("moped", "disk brake", False),
        ("malamute", "daisy", False),
        ("malamute", "moped", True),
        ("moped", "espresso", True),
        ("street sign", "moped", True),
    ],
)
def test_severe_flips_share_nothing_that_matters(first: str, second: str, severe: bool) -> None:
    assert (hypernym_height(INDEX[first], INDEX[second]) >= SEVERE_HEIGHT) == severe


@pytest.mark.parametrize(
    "subject", ["cat", "Cats", "cute cats in a garden", "domestic_cat", "house-cat", "animal, cat"]
)
def test_a_cat_is_still_a_cat(subject: str) -> None:
    assert "tiger cat" in names(subject, "Egyptian cat")
    assert "malamute" not in names(subject, "Egyptian cat")


@pytest.mark.parametrize(
    ("subject", "true_label"),
    [
        ("Egyptian cat", "Egyptian cat"),
        ("two Egyptian cats, cat photo", "Egyptian cat"),
        ("dog", "Egyptian cat"),
        ("motorcycle", "moped"),
        ("hot dog stand", "malamute"),
        ("objects", "moped"),
        ("狗", "malamute"),
        ("", "malamute"),
        (None, "malamute"),
    ],
)
def test_subjects_that_cover_no_other_label(subject: str | None, true_label: str) -> None:
    assert names(subject, true_label) == set()


@pytest.mark.parametrize(
    ("subject", "true_label", "other"),
    [
        ("wolves", "timber wolf", "white wolf"),
        ("sled-dogs", "malamute", "Siberian husky"),
        ("vehicle", "moped", "minivan"),
        ("fishes", "tench", "goldfish"),
        ("Fruits & vegetables", "lemon", "orange"),
    ],
)
def test_subjects_as_people_write_them(subject: str, true_label: str, other: str) -> None:
    assert other in names(subject, true_label)


@pytest.mark.parametrize(
    ("subject", "label", "belongs"),
    [
        ("dogs", "malamute", True),
        ("happy dogs in snow", "malamute", True),
        ("cranes", "crane", True),
        ("musical instruments", "grand piano", True),
        ("musical_instrument", "malamute", False),
        ("dog", "tabby", False),
        ("dog on a sofa", "tabby", False),
        ("building", "castle", False),
        ("собака", "malamute", False),
        ("", "malamute", False),
    ],
)
def test_the_table_says_what_a_subject_names(subject: str, label: str, belongs: bool) -> None:
    assert hypernyms.is_named_by(subject, INDEX[label]) is belongs


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), LABELS)
def test_any_text_is_a_subject(subject: str, true_label: int) -> None:
    assert true_label not in covered_labels(subject, true_label)
    assert hypernyms.is_named_by(subject, true_label) or not covered_labels(subject, true_label)


def test_the_table_is_written_from_wordnets_files(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """WordNet's files are rebuilt from the table, as wndb(5WN) says; the script makes the same table of them."""
    lines = ["  1 a line of the licence, which begins with two spaces"]
    for key, entry in synsets().items():
        words = " ".join(f"{name.replace(' ', '_')} 0" for name in entry.names)
        above = " ".join(f"@ {other} n 0000".replace(" n0", " 0").replace(" n1", " 1") for other in entry.hypernyms)
        count = len(entry.hypernyms) + 1
        lines.append(f"{key[1:]} 05 n {len(entry.names):02x} {words} {count:03d} {above} ~ 00000001 n 0000 | a gloss")
    (tmp_path / "data.noun").write_text("\n".join(lines))
    table = hypernyms._table()
    (tmp_path / "noun.exc").write_text("\n".join(f"{key} {' '.join(value)}" for key, value in table["plurals"].items()))
    assert hypernyms_table(tmp_path) == (hypernyms.resources.files("perturb.models") / "hypernyms.json").read_text()

    (tmp_path / "data.noun").write_text("\n".join(line for line in lines if not line.startswith("01440764")))
    with pytest.raises(ModelError, match=re.escape("has no synset n01440764")):
        hypernyms_table(tmp_path)
