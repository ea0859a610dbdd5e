"""The state of a corpus at one moment: what was produced today, what lags behind, and what to do about it."""

from datetime import date, datetime

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class TierLag(_Part):
    """How far the export of one tier is behind the sealed days that its delay allows."""

    tier: str
    exported_until: date | None = Field(description="the last day that is exported; None before the first export")
    behind: tuple[date, ...] = Field(description="the days of a week that are sealed, due and not exported, ascending")
    oldest_due_s: float = Field(description="seconds for which the oldest of them has been due; 0 if `behind` is empty")


class Finding(_Part):
    """Something that needs attention: the part of the pipeline, what is wrong, and what to do about it."""

    part: str
    what: str
    advice: str


class TargetCounts(_Part):
    """Today's answers for one target. `share` is its share of the line-up, None where it is not in it."""

    target: str
    share: float | None
    responses: int
    accepted: int
    not_served: int = Field(description="answers by which miners said that they do not have the target: HTTP 422")


class Medians(_Part):
    """Medians over today's accepted answers; None without an accepted answer."""

    linf_levels: float | None = None
    ssim: float | None = None
    response_ms: float | None = None
    score: float | None = None


class Status(_Part):
    """What `perturb status` reports. `today` is the UTC day of `at`; its counts are of records made since midnight."""

    store: str
    at: datetime
    today: date
    rounds: int
    responses: int
    accepted: int
    refused: dict[str, int] = Field(description="reason -> answers refused today, the most frequent first")
    miners: int = Field(description="hotkeys that were asked today")
    targets: tuple[TargetCounts, ...] = Field(default=(), description="today's answers by target, by its name")
    medians: Medians
    judged: int = Field(
        description="label pairs that the judge was needed for in today's rounds, counted once per round"
    )
    judge_hit_rate: float | None = Field(
        description="share of them that an earlier round of the last seven days had needed too; None if `judged` is 0"
    )
    last_round: str | None
    last_commit: datetime | None
    last_commit_age_s: float | None
    live_rounds: int = Field(description="committed rounds that are not part of a sealed day")
    unsealed_days: tuple[date, ...] = Field(description="days that are over and hold live rounds")
    foreign_rounds: dict[str, int] = Field(
        default={}, description="why live rounds are not counted -> how many: no trusted validator signed them"
    )
    foreign_days: dict[str, int] = Field(default={}, description="the same for sealed days, none of which is counted")
    foreign_entries: dict[str, int] = Field(
        default={}, description="the same for entries at the end of the log, which are passed over"
    )
    sealed_days: int
    sealed_records: int
    sealed_bytes: int
    last_sealed: date | None
    exports: tuple[TierLag, ...]
    findings: tuple[Finding, ...]

    @property
    def well(self) -> bool:
        """Whether nothing needs attention."""
        return not self.findings
