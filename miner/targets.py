"""The networks that a miner attacks: its own, and targets of a registry that it loads when a task names them.

A registry is where a validator's store is readable: a folder, `s3://BUCKET/PREFIX`, or an `https://` address that
serves the store's `targets/` as files. Weights are safetensors, and are compared with the digest that the task names.
"""

import logging
import time
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol

import httpx

from perturb.schemas.errors import ModelError, PerturbError
from perturb.schemas.settings import ClassifierSettings, S3Settings, Settings, WeightsSpec
from perturb.schemas.target import Target
from perturb.sinks.formats.version import parse_document
from perturb.sinks.stores.open import open_store
from perturb.sinks.targets.cache import as_classifier, cached_weights
from perturb.sinks.targets.registry import (
    Card,
    DigestName,
    Registry,
    card_key,
    check_safetensors,
    digest_key,
    weights_key,
)

if TYPE_CHECKING:
    from perturb.models.classifier import Classifier

logger = logging.getLogger(__name__)

# Networks that are kept beside the miner's own.
_KEPT = 3
# For so long a digest that was not found is not looked for again.
_RETRY_SECONDS = 60.0
_MAX_DOCUMENT = 2**20
_MAX_WEIGHTS = 2 * 2**30
# Without a byte for so long a server counts as gone; a whole file may take this long.
_SILENCE_SECONDS, _WHOLE_SECONDS = 20.0, 600.0
DEFAULT_S3 = S3Settings()
DEFAULT_CACHE: Path = Settings.model_fields["cache_dir"].default


class TargetSource(Protocol):
    """Where cards and weights are read."""

    def by_digest(self, sha256: str) -> Target | None:
        """Return the target with these weights, or None."""
        ...

    def weights(self, target: Target) -> bytes:
        """Return the weights file of a target."""
        ...


class HttpRegistry:
    """A registry that an HTTP server serves as files."""

    def __init__(self, url: str):
        self._url = url.rstrip("/")

    def by_digest(self, sha256: str) -> Target | None:
        """Return the target with these weights, or None. Raises ModelError where the server fails."""
        name = self._get(digest_key(sha256), _MAX_DOCUMENT)
        if name is None:
            return None
        key = card_key(parse_document(DigestName, name, digest_key(sha256)).name)
        card = self._get(key, _MAX_DOCUMENT)
        return None if card is None else parse_document(Card, card, key).target

    def weights(self, target: Target) -> bytes:
        """Return the weights file of a target. Raises ModelError where the server fails or has none."""
        data = self._get(weights_key(target.name), _MAX_WEIGHTS)
        if data is None:
            raise ModelError(f"{self._url}/{weights_key(target.name)} is missing")
        check_safetensors(data, target.name)
        return data

    def _get(self, key: str, limit: int) -> bytes | None:
        where = f"{self._url}/{key}"
        parts, ends = list[bytes](), time.monotonic() + _WHOLE_SECONDS
        try:
            with httpx.stream("GET", where, timeout=_SILENCE_SECONDS) as reply:
                if reply.status_code == httpx.codes.NOT_FOUND:
                    return None
                reply.raise_for_status()
                for part in reply.iter_bytes():
                    parts.append(part)
                    if (limit := limit - len(part)) < 0:
                        raise ModelError(f"{where} is larger than is accepted")
                    if time.monotonic() > ends:
                        raise ModelError(f"{where} took longer than {_WHOLE_SECONDS:g} s")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ModelError(f"{where} cannot be read ({type(error).__name__}: {error})") from error
        return b"".join(parts)


class TargetPool:
    """The miner's own network, and the last few targets that tasks named.

    `registry` is a folder, a store's URL or an HTTP address, and `s3` says how a store on S3 is reached; without a
    registry only the own network is known. Weights that are read are kept below `cache`. Safe for threads.
    """

    def __init__(
        self,
        own: ClassifierSettings,
        *,
        registry: str | None = None,
        cache: Path = DEFAULT_CACHE,
        s3: S3Settings = DEFAULT_S3,
    ):
        from perturb.models.classifier import load_classifier

        self.own = load_classifier(own)
        self._settings = own
        self._cache = cache
        self._where = registry
        self._s3 = s3
        self._loaded: OrderedDict[str, Classifier] = OrderedDict()
        self._refused: dict[str, tuple[float, str]] = {}
        self._lock = Lock()

    def get(self, name: str, sha256: str) -> "Classifier":
        """Return the network of a task, by its timm name and the sha256 of its weights.

        Raises ModelError that says why this miner does not have it.
        """
        if (name, sha256) == (self.own.name, self.own.sha256):
            return self.own
        with self._lock:
            if sha256 in self._loaded:
                self._loaded.move_to_end(sha256)
                return self._loaded[sha256]
            since, reason = self._refused.get(sha256, (float("-inf"), ""))
            if time.monotonic() - since < _RETRY_SECONDS:
                raise ModelError(reason)
            try:
                found = self._load(name, sha256)
            except PerturbError as error:
                self._refuse(sha256, str(error))
                raise ModelError(str(error)) from error
            self._loaded[sha256] = found
            while len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
            return found

    @cached_property
    def _source(self) -> TargetSource | None:
        # Opened when a task asks for it: a fork inherits no connection.
        if self._where is None:
            return None
        if self._where.startswith(("http://", "https://")):
            return HttpRegistry(self._where)
        return Registry(open_store(self._where, self._s3))

    def _load(self, name: str, sha256: str) -> "Classifier":
        from perturb.models.classifier import load_classifier

        attacked = f"this miner attacks {self.own.name} with weights {self.own.sha256[:12]}"
        wanted = f"{name[:64]} with {sha256[:12]}"
        if self._source is None:
            raise ModelError(f"{attacked}, not {wanted}; `perturb miner --targets` names a registry to load it from")
        target = self._source.by_digest(sha256)
        if target is None or target.architecture != name:
            raise ModelError(f"{attacked}; the registry at {self._where} does not have {wanted}")
        if target.weights != "registry":
            raise ModelError(f"{attacked}; the registry at {self._where} has no weights of target {target.name!r}")
        logger.info("loading target %s, which a task names", target.name)
        path = cached_weights(self._cache, target, self._source.weights)
        return load_classifier(as_classifier(target, self._settings, WeightsSpec("file", path=path)))

    def _refuse(self, sha256: str, reason: str) -> None:
        # Digests come from outside: what is remembered of them is bounded.
        if len(self._refused) >= 256:
            self._refused.clear()
        self._refused[sha256] = (time.monotonic(), reason)
