"""A subscription tier: which records leave, which of their columns, when, and under which terms."""

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from perturb.schemas.record import POINTERS, record_schema

Identity = Literal["none", "pseudonym", "hotkey"]
IDENTITIES: tuple[Identity, ...] = ("none", "pseudonym", "hotkey")

Layout = Literal["pairs", "wds", "by_photo"]
# What an export had before tiers could choose; a tier that says nothing has the same.
DEFAULT_LAYOUTS: tuple[Layout, ...] = ("pairs", "wds")

# The parts of an export, in the order in which rows and files of one day stand.
SPLITS = ("train", "validation", "test")

# Where the corpus keeps an image concerns only the corpus, and those two are null in every accepted row.
NEVER_GRANTED = frozenset({*POINTERS, "duplicate_of", "duplicate_round"})

# Each of these columns identifies the miner, or allows to find out: hotkeys are public, so a reader who knows a task's
# id can try all of them against a record id (a hash over task, hotkey and pixels) or a signature until one matches. A
# task's id follows from its salt and the other terms. The miner chooses the bytes of the body, so that their digest is
# a mark that the miner can recognise.
IDENTIFYING = frozenset(
    {
        *("record_id", "task_id", "task_salt", "miner_uid", "miner_hotkey", "miner_signature", "request_nonce"),
        *("detail", "body_sha256"),
    }
)

# What a validator measures about the miner, and not about the images: it follows from neither of them.
_OF_THE_MINER = ("response_ms", "speed", "score")

GROUPS: dict[str, tuple[str, ...]] = {
    "@identity": (
        *("record_id", "round_id", "task_id", "task_salt", "created_at", "netuid", "block", "validator_hotkey"),
    ),
    "@source": ("source", "source_id", "source_url", "author", "license", "subject"),
    "@challenge": (
        *("true_label", "true_label_name", "synset", "true_class", "clean_confidence", "clean_margin"),
        *(
            "subject_score",
            "classifier",
            "classifier_sha256",
            "target",
            "log_size",
            "judge",
            "judge_sha256",
            "epsilon_min",
        ),
        *("epsilon", "min_psnr", "min_ssim", "min_margin", "norm_type", "timeout_ms", "height", "width"),
        "excluded_labels",
    ),
    "@response": (
        *("miner_uid", "miner_hotkey", "response_ms", "outcome", "detail", "body_sha256", "request_nonce"),
        "miner_signature",
    ),
    "@verdict": (
        *("adversarial_label", "adversarial_label_name", "adversarial_confidence", "margin", "linf", "linf_levels"),
        *("l0", "l0_pixels", "l2", "rmse", "psnr", "ssim", "ssim_definition", "semantic_score", "semantic_mismatch"),
        *("hypernym_height", "changed_share", "near_duplicate_of", "persists", "transfer"),
    ),
    "@score": ("quality", "speed", "score", "policy"),
    "@pixels": ("original_sha256", "perturbed_sha256"),
}

# Columns that an export adds. A tier cannot list them, and a view cannot have such a name.
ADDED = ("sample_id", "miner_pseudonym", "original", "perturbed")

_NAME = re.compile(r"^[a-z][a-z0-9-]{0,39}$")
_VIEW = re.compile(r"^[a-z][a-z0-9_]{0,39}$")


def grantable(identity: Identity) -> tuple[str, ...]:
    """Return the record columns that a tier with this miner identity may list, in the record's order."""
    withheld = NEVER_GRANTED if identity == "hotkey" else NEVER_GRANTED | IDENTIFYING
    return tuple(name for name in record_schema().names if name not in withheld)


class Tier(BaseModel):
    """An export filter: which rows and columns of the corpus a group of subscribers gets.

    `where` is one SQL expression over the record's columns. `columns` lists record columns, or groups of them
    (`@source`, `@challenge`, …); a group stands for those of its columns that `miner` allows. `fraction` keeps the
    pairs whose keyed hash, read as a number in 0..1, is below it: the same pairs every time, and the pairs of a
    smaller fraction are among those of a larger one. `delay_days` counts from the end of the sealed day (UTC). `miner`
    says how a tier identifies the miner of a perturbation: not at all, by a pseudonym that is valid within this tier,
    or by the hotkey. Unless it is the hotkey, the sample ids are valid within this tier only, and perturbed images are
    encoded anew. `views` are named predicates over the granted columns. `layouts` are the forms in which the records
    are exported: `pairs` (Parquet, one row a pair), `wds` (tars), `by_photo` (Parquet, one row a photograph). If
    `within` names another tier, that tier must contain every record and column of this one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = Field(min_length=1)
    where: str = Field(default="true", min_length=1)
    columns: tuple[str, ...] = Field(min_length=1)
    fraction: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    delay_days: int = Field(default=0, ge=0, le=3650)
    miner: Identity = "none"
    views: dict[str, str] = Field(default_factory=dict)
    layouts: tuple[Layout, ...] = DEFAULT_LAYOUTS
    within: str | None = None
    license: str = Field(min_length=1, description="the licence terms, printed in the card")
    license_name: str = Field(default="other", pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]*$")

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"tier name {name!r}: use at most 40 lower-case letters, digits and '-', and begin with a letter"
            )
        return name

    @field_validator("layouts")
    @classmethod
    def _with_pairs(cls, layouts: tuple[Layout, ...]) -> tuple[Layout, ...]:
        if "pairs" not in layouts or len(set(layouts)) != len(layouts):
            raise ValueError(
                f'layouts {list(layouts)}: list "pairs" (perturb evaluate and the views read it), and "wds" and '
                '"by_photo" where they are wanted, each once'
            )
        return layouts

    @field_validator("views")
    @classmethod
    def _plain_views(cls, views: dict[str, str]) -> dict[str, str]:
        taken = {*record_schema().names, *ADDED, *SPLITS, "default", "key"}
        for view in views:
            if not _VIEW.fullmatch(view) or view in taken:
                raise ValueError(
                    f"view name {view!r}: use lower-case letters, digits and '_', a letter first, and no column's name"
                )
        return dict(sorted(views.items()))

    @model_validator(mode="after")
    def _known_columns(self) -> Self:
        allowed = grantable(self.miner)
        for column in self.columns:
            if column in allowed or column in GROUPS:
                continue
            if column in IDENTIFYING:
                raise ValueError(f'column {column!r} identifies the miner; list it only with miner = "hotkey"')
            if column in NEVER_GRANTED:
                raise ValueError(f"column {column!r} is internal to the corpus and is never exported; remove it")
            raise ValueError(
                f"column {column!r} does not exist; groups are {', '.join(GROUPS)}, columns {', '.join(allowed)}"
            )
        return self

    @property
    def shows_hotkeys(self) -> bool:
        """Whether rows may name their miners. If not, nothing that a miner chose leaves, except the pixels."""
        return self.miner == "hotkey"

    @property
    def keyed(self) -> bool:
        """Whether the export depends on the operator's secret: its ids, its pseudonyms or its fraction."""
        return not self.shows_hotkeys or self.fraction < 1

    @property
    def granted(self) -> tuple[str, ...]:
        """The record columns that are exported, groups resolved, in the record's order."""
        listed = {name for column in self.columns for name in GROUPS.get(column, (column,))}
        return tuple(name for name in grantable(self.miner) if name in listed)


def exposures(tier: Tier) -> tuple[str, ...]:
    """Return what rows of a tier tell about their miners although it does not show hotkeys, a sentence each.

    Cards print these sentences, and `perturb tiers check` names them.
    """
    measured = ", ".join(f"`{name}`" for name in _OF_THE_MINER if name in tier.granted)
    sentences = []
    if tier.miner == "pseudonym":
        sentences.append(
            "Pseudonyms group the rows of a miner and do not make it anonymous: the number of rows of a pseudonym and "
            "the sizes of its perturbations can be compared with the weights that validators publish on chain, which "
            "allows to estimate the hotkey."
        )
        if measured:
            sentences.append(
                f"The mean of {measured} for each pseudonym can be compared with the weights on chain, which "
                "identifies most miners."
            )
    if tier.miner == "none" and measured:
        sentences.append(
            f"Values of {measured} resemble each other for answers of one miner, which allows to group rows by miner."
        )
    return tuple(sentences)
