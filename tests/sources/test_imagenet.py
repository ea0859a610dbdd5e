"""The classes that sources read from timm's files are those that timm itself gives."""

from perturb.models.labels import imagenet_labels
from perturb.sources.imagenet import class_names, class_of_synset


def test_the_classes_are_timms() -> None:
    labels = imagenet_labels()
    assert class_names() == tuple(label.name for label in labels)
    assert class_of_synset() == {label.synset: label.index for label in labels}
