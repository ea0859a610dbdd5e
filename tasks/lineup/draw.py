"""Which target a round attacks: drawn from the line-up, or the configured classifier while there is none."""

import logging
import time

from perturb.models.classifier import Classifier, load_classifier
from perturb.schemas.errors import CorpusError, ModelError, StoreError
from perturb.schemas.line_up import DrawnTarget, LineUp, draw_target
from perturb.schemas.settings import Settings
from perturb.schemas.target import target_name
from perturb.sinks.log.log import Log
from perturb.sinks.stores.base import Store
from perturb.sinks.targets.line_up import LineUps
from perturb.subnet.trust import load_trust
from perturb.tasks.lineup.find import classifier_of_digest

logger = logging.getLogger(__name__)
# How old the line-up may be that a round is drawn from. A promotion takes effect within this time.
REFRESH_SECONDS = 60.0


class TargetDraw:
    """Draws the target of each round. The line-up is read from the log at most once a minute."""

    def __init__(self, store: Store, settings: Settings):
        self._settings = settings
        self._line_ups = LineUps(Log(store, trust=load_trust(settings.subnet)))
        self._line_up: LineUp | None = None
        self._log_size = 0
        self._read_at: float | None = None

    def draw(self, round_id: str) -> DrawnTarget:
        """Return the target of a round. Raises CorpusError or StoreError where the log could never be read."""
        self._refresh()
        if self._line_up is None:
            own = load_classifier(self._settings.classifier)
            return DrawnTarget(round_id=round_id, target=target_name(own.name, own.sha256), sha256=own.sha256)
        one = draw_target(self._line_up.shares, round_id, self._log_size)
        return DrawnTarget(round_id=round_id, target=one.target, sha256=one.sha256, log_size=self._log_size)

    def load_all(self) -> list[str]:
        """Load every target of the line-up, so that no round waits for it; return their names. Raises as `draw`."""
        self._refresh()
        shares = () if self._line_up is None else self._line_up.shares
        for one in shares:
            self.classifier(one.sha256)
        return [one.target for one in shares]

    def classifier(self, sha256: str, *, input_size: int = 0) -> Classifier:
        """Return the network with these weights. Raises ModelError where it is not known or can't be loaded."""
        try:
            return classifier_of_digest(self._settings, sha256, input_size=input_size)
        except ModelError as error:
            named = [one.target for one in self._line_up.shares if one.sha256 == sha256] if self._line_up else []
            if not named:
                raise
            raise ModelError(
                f"target {named[0]!r} of the line-up cannot be loaded: {error}; `perturb targets retire {named[0]}` "
                "takes it out"
            ) from error

    def _refresh(self) -> None:
        if self._read_at is not None and time.monotonic() - self._read_at < REFRESH_SECONDS:
            return
        try:
            self._line_up, self._log_size = self._line_ups.newest()
        except (CorpusError, StoreError) as error:
            if self._read_at is None:
                raise
            # Rounds of the line-up that was read before are valid: whoever can write an invalid entry stops no round.
            logger.warning("the line-up is not read anew: %s", error)
        self._read_at = time.monotonic()
