"""The 1000 classes of ImageNet-1k: names, synonyms, WordNet IDs and glosses.

The texts are WordNet 3.0's, as timm ships them (`timm.data.ImageNetInfo`), so they need no download.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timm.data.imagenet_info import ImageNetInfo


@dataclass(frozen=True)
class Label:
    """One ImageNet-1k class. `names` holds its lemmas, the usual one first; `gloss` is WordNet's definition."""

    index: int
    synset: str
    names: tuple[str, ...]
    gloss: str

    @property
    def name(self) -> str:
        """The first lemma, e.g. `tench`."""
        return self.names[0]


@cache
def imagenet_labels() -> tuple[Label, ...]:
    """Return all 1000 classes in index order."""
    import perturb.models._torchvision  # noqa: F401, I001
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(_label(index, synset, info) for index, synset in enumerate(info.label_names()))  # type: ignore[no-untyped-call]


def imagenet_label(index: int) -> Label:
    """Return the class at `index`. Raises IndexError that names the accepted range."""
    labels = imagenet_labels()
    if not 0 <= index < len(labels):
        raise IndexError(f"ImageNet-1k class {index} does not exist; accepted: 0 to {len(labels) - 1}")
    return labels[index]


def _label(index: int, synset: str, info: "ImageNetInfo") -> Label:
    lemmas = info.label_name_to_description(synset)
    detailed = info.label_name_to_description(synset, detailed=True)
    names = tuple(name.strip() for name in lemmas.split(",") if name.strip())
    return Label(index=index, synset=synset, names=names, gloss=detailed.removeprefix(f"{lemmas}: "))
