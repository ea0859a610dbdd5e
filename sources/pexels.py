"""Pexels' search API, version 1 (https://www.pexels.com/api/documentation/).

This code was not tried on the live API; the tests run it against a local server that answers as documented.
"""

import logging
import random
from collections.abc import Collection, Iterator
from itertools import islice

from pydantic import BaseModel, ValidationError

from perturb.schemas.challenge import Photo
from perturb.schemas.errors import SourceError
from perturb.schemas.settings import PexelsSettings
from perturb.sources.decode import MAX_BYTES, UnusableImage, decode_photo
from perturb.sources.imagenet import class_names
from perturb.sources.web import Downloader, Refused

logger = logging.getLogger(__name__)

API = "https://api.pexels.com"
IMAGES = "https://images.pexels.com"
LICENSE = "Pexels License (https://www.pexels.com/license/)"

_PER_PAGE = 15
# Searches whose photographs are mixed, so that consecutive challenges have different subjects.
_MIXED_PROMPTS = 4
_MAX_JSON_BYTES = 2 * 2**20
_MAX_FAILURES = 10


class _Hit(BaseModel):
    id: int
    url: str
    photographer: str
    src: dict[str, str]

    @property
    def address(self) -> str:
        """About 1880 x 1300 pixels: more than any classifier sees, a tenth of the original's bytes."""
        return self.src.get("large2x") or self.src.get("original", "")


class _Page(BaseModel):
    photos: list[_Hit]
    next_page: str | None = None


class PexelsSource:
    """Photographs found by searching for `settings.prompts` (empty: the names of ImageNet's classes).

    The prompt is the photograph's subject; its class is unknown. Ends after the last page of every prompt.
    `origins` are the only hosts that are contacted, the API's first.
    """

    name = "pexels"

    def __init__(
        self,
        settings: PexelsSettings,
        *,
        api: str = API,
        origins: Collection[str] = (API, IMAGES),
        backoff_seconds: float = 1.0,
    ):
        key = settings.api_key.get_secret_value().strip() if settings.api_key else ""
        if not key:
            raise SourceError(
                "source pexels needs a key; get one at https://www.pexels.com/api/ and set PERTURB_PEXELS__API_KEY, "
                "or use source sample or folder:DIR"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise SourceError("PERTURB_PEXELS__API_KEY is not a key: it has characters that keys do not have")
        self._key = settings.api_key
        self._prompts = settings.prompts or class_names()
        self._api = api
        self._web = Downloader(origins, backoff_seconds=backoff_seconds)

    def photos(self, *, seed: int | None) -> Iterator[Photo]:
        """Yield photographs. Raises SourceError when the API refuses, or after ten failed downloads in a row."""
        rng = random.Random(seed)
        failures = 0
        seen: set[int] = set()
        for prompt, page, hit in self._hits(rng):
            if hit.id in seen:
                continue
            seen.add(hit.id)
            try:
                photo = self._download(prompt, page, hit)
            except (Refused, UnusableImage) as reason:
                failures += 1
                logger.warning("skipping pexels photo %d: %s", hit.id, reason)
                if failures == _MAX_FAILURES:
                    raise SourceError(f"{failures} Pexels photographs in a row failed; the last: {reason}") from reason
                continue
            failures = 0
            yield photo

    def check(self) -> str:
        """Make one search."""
        page = self._search(self._prompts[0], 1)
        return f"pexels answers: {len(page.photos)} photographs for {self._prompts[0]!r}, {len(self._prompts)} prompts"

    def _hits(self, rng: random.Random) -> Iterator[tuple[str, int, _Hit]]:
        prompts = list(self._prompts)
        number = 0
        while prompts:
            number += 1
            rng.shuffle(prompts)
            going_on: list[str] = []
            turn = iter(prompts)
            while group := list(islice(turn, _MIXED_PROMPTS)):
                found: list[tuple[str, int, _Hit]] = []
                for prompt in group:
                    page = self._search(prompt, number)
                    found += [(prompt, number, hit) for hit in page.photos]
                    if page.next_page and page.photos:
                        going_on.append(prompt)
                rng.shuffle(found)
                yield from found
            prompts = going_on

    def _search(self, prompt: str, page: int) -> _Page:
        assert self._key is not None
        try:
            body = self._web.get(
                f"{self._api}/v1/search",
                max_bytes=_MAX_JSON_BYTES,
                query={"query": prompt, "page": str(page), "per_page": str(_PER_PAGE)},
                headers={"Authorization": self._key.get_secret_value().strip()},
            )
            return _Page.model_validate_json(body)
        except Refused as error:
            raise SourceError(_advice(error)) from error
        except ValidationError as error:
            raise SourceError(
                f"Pexels' answer for {prompt!r} is not what its documentation says ({error.error_count()} differences)"
            ) from error

    def _download(self, prompt: str, page: int, hit: _Hit) -> Photo:
        return Photo(
            pixels=decode_photo(self._web.get(hit.address, max_bytes=MAX_BYTES)),
            source=self.name,
            source_id=f"{hit.id}?query={prompt}&page={page}",
            source_url=hit.url[:500],
            author=hit.photographer[:200],
            license=LICENSE,
            subject=prompt,
        )


def _advice(error: Refused) -> str:
    match error.status:
        case 401 | 403:
            return f"Pexels refuses the key (HTTP status {error.status}); check PERTURB_PEXELS__API_KEY"
        case 429:
            return "Pexels' request limit is used up (HTTP status 429, after retries); try later or raise the limit"
    return f"Pexels can't be searched: {error}; try again later, or use another source"
