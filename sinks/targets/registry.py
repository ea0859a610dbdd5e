"""Targets on a store: `targets/{name}/weights.safetensors` and `card.json`, each created once and never replaced.

`targets/by-sha256/{sha256}.json` names the target with these weights: whoever creates it has the weights under its
name, and a miner that is asked for a digest finds them without listing anything.
"""

import hashlib
from typing import Literal, Self

from pydantic import Field

from perturb.schemas.errors import CorpusError, ModelError
from perturb.schemas.report_card import TargetReport
from perturb.schemas.settings import Settings
from perturb.schemas.target import NAME, Target
from perturb.sinks.formats.version import FORMAT, Document, parse_document
from perturb.sinks.stores.base import ObjectMissing, Store
from perturb.sinks.stores.open import open_store

TARGETS = "targets/"
# What a header of safetensors may take of the file. A larger one is not one of weights.
_MAX_HEADER = 100 * 2**20


class Card(Document):
    """The card of a target. It is the commit: weights without a card are not a target."""

    kind: Literal["target"] = "target"
    target: Target


class Report(Document):
    """A report card of a target. Each measurement is a document of its own."""

    kind: Literal["target-report"] = "target-report"
    report: TargetReport


class DigestName(Document):
    """The name of the target that has the weights of a digest."""

    kind: Literal["target-name"] = "target-name"
    name: str = Field(pattern=NAME)


class Registry:
    """The targets on `store`. All methods raise StoreError when the store fails."""

    def __init__(self, store: Store):
        self.store = store
        self._known: dict[str, Target] = {}

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Return the registry in the store that the settings name. Raises StoreError for an unsupported URL."""
        return cls(open_store(settings.store, settings.s3))

    def names(self) -> list[str]:
        """Return the names of all targets, sorted."""
        return sorted(name for name in self.store.folders(TARGETS) if self._card(name) is not None)

    def get(self, name: str) -> Target:
        """Return a target. Raises ModelError when there is none of that name, CorpusError for an invalid card."""
        found = self._card(name)
        if found is None:
            raise ModelError(
                f"target {name!r} is not in the registry; accepted: {', '.join(self.names()) or 'none yet'}"
            )
        return found

    def by_digest(self, sha256: str) -> Target | None:
        """Return the target with these weights, or None. Raises CorpusError where their card is of other weights."""
        known = next((target for target in self._known.values() if target.sha256 == sha256), None)
        if known is not None:
            return known
        key = digest_key(sha256)
        try:
            name = parse_document(DigestName, self.store.get(key), key).name
        except ObjectMissing:
            return None
        # The name is taken before the card is written: a writer that was killed in between left no target.
        target = self._card(name)
        if target is not None and target.sha256 != sha256:
            raise CorpusError(f"{key} names target {name!r}, which has other weights; restore it from a copy")
        return target

    def weights(self, target: Target) -> bytes:
        """Return the weights file of a target that the registry holds.

        Raises ModelError when it is missing or not the one of the card.
        """
        key = weights_key(target.name)
        try:
            data = self.store.get(key)
        except ObjectMissing as error:
            raise ModelError(f"{key} is missing; restore it from a copy") from error
        if hashlib.sha256(data).hexdigest() != target.sha256:
            raise ModelError(f"{key} is not the file of its card (sha256 {target.sha256}); restore it from a copy")
        return data

    def add(self, target: Target, weights: bytes | None) -> None:
        """Create a target, with its weights where the registry is to hold them. The same again changes nothing.

        Raises ModelError when the name or the weights are taken, when the weights are not those that the card names,
        and when they are no safetensors file.
        """
        if (weights is None) != (target.weights != "registry"):
            raise ModelError(f"target {target.name!r} says that its weights are in {target.weights!r}")
        if weights is not None:
            check_safetensors(weights, target.name)
            if hashlib.sha256(weights).hexdigest() != target.sha256:
                raise ModelError(f"the weights of target {target.name!r} are not those that its card names")
        if target.parent is not None and self._card(target.parent) is None:
            raise ModelError(f"parent {target.parent!r} of target {target.name!r} is not in the registry; add it first")
        digest = DigestName(format=FORMAT, name=target.name)
        if (self._card(target.name) or target) != target:
            raise _taken(target)
        if not self.store.put_new(digest_key(target.sha256), digest.to_json()):
            other = parse_document(DigestName, self.store.get(digest_key(target.sha256)), digest_key(target.sha256))
            raise ModelError(f"target {other.name!r} has the same weights as {target.name!r}; a target has one name")
        card = Card(format=FORMAT, target=target)
        own = weights is None or self.store.put_new(weights_key(target.name), weights)
        if not own or not self.store.put_new(card_key(target.name), card.to_json()):
            raise _taken(target)
        self._known[target.name] = target

    def add_control(self, target: Target, weights: bytes) -> None:
        """Keep the control arm of a target's training, so that the target can be measured again."""
        self.store.put_new(control_key(target.name), weights)

    def control(self, target: Target) -> bytes | None:
        """Return the weights of a target's control arm, or None where there is none.

        Raises ModelError where they are not those of the target's recipe.
        """
        try:
            data = self.store.get(control_key(target.name))
        except ObjectMissing:
            return None
        if hashlib.sha256(data).hexdigest() != (target.recipe or {}).get("control_sha256"):
            raise ModelError(f"{control_key(target.name)} is not the file of the target's card; restore it from a copy")
        return data

    def add_report(self, report: TargetReport) -> str:
        """Keep a report beside those before it, and return its key. Raises ModelError for another network's report."""
        target = self.get(report.target)
        if report.sha256 != target.sha256:
            raise ModelError(f"the report is of weights {report.sha256}, target {target.name!r} has {target.sha256}")
        data = Report(format=FORMAT, report=report).to_json()
        number = len(self._reports(target.name))
        while not self.store.put_new(report_key(target.name, number), data):
            number += 1
        return report_key(target.name, number)

    def report(self, name: str) -> TargetReport | None:
        """Return the newest report of a target, or None. Raises CorpusError for an invalid one."""
        keys = self._reports(name)
        if not keys:
            return None
        report = parse_document(Report, self.store.get(keys[-1]), keys[-1]).report
        target = self.get(name)
        if (report.target, report.sha256) != (name, target.sha256):
            raise CorpusError(f"{keys[-1]} is a report of another network; delete it, and measure {name!r} again")
        return report

    def _reports(self, name: str) -> list[str]:
        return sorted(entry.key for entry in self.store.entries(f"{TARGETS}{name}/reports/"))

    def _card(self, name: str) -> Target | None:
        if name not in self._known:
            try:
                data = self.store.get(card_key(name))
            except ObjectMissing:
                return None
            target = parse_document(Card, data, card_key(name)).target
            if target.name != name:
                raise CorpusError(f"{card_key(name)} is the card of target {target.name!r}; restore it from a copy")
            self._known[name] = target
        return self._known[name]


def _taken(target: Target) -> ModelError:
    return ModelError(f"target {target.name!r} exists with other weights or another card; choose another name")


def digest_key(sha256: str) -> str:
    """Return the key that says which target has the weights of a digest."""
    return f"{TARGETS}by-sha256/{sha256}.json"


def weights_key(name: str) -> str:
    """Return the key of a target's weights."""
    return f"{TARGETS}{name}/weights.safetensors"


def control_key(name: str) -> str:
    """Return the key of the weights of the control arm of a target's training."""
    return f"{TARGETS}{name}/control.safetensors"


def report_key(name: str, number: int) -> str:
    """Return the key of a target's report; the first has number 0."""
    return f"{TARGETS}{name}/reports/{number:04d}.json"


def card_key(name: str) -> str:
    """Return the key of a target's card."""
    return f"{TARGETS}{name}/card.json"


def is_safetensors(data: bytes) -> bool:
    """Return whether the bytes begin as a safetensors file: the length of a JSON header, then its brace."""
    header = int.from_bytes(data[:8], "little")
    return data[8:9] == b"{" and 2 <= header <= min(_MAX_HEADER, len(data) - 8)


def check_safetensors(data: bytes, what: str) -> None:
    """Raise ModelError unless the bytes begin as a safetensors file."""
    if not is_safetensors(data):
        raise ModelError(f"the weights of {what!r} are not a safetensors file; pickles are not accepted here")
