"""Keys of the corpus, relative to its root. `docs/corpus.md` describes the same layout for readers."""

from datetime import date

from perturb.schemas.errors import SettingsError

ROUNDS = "rounds/"
SEALED = "sealed/"
LOG = "sealed/log/"
PENDING = "pending/"
COMMIT = "metadata.parquet"
MANIFEST = "manifest.json"
_DAY = "date="


def day_folder(root: str, day: date) -> str:
    """`rounds/date=2026-01-31/`, or the same below `sealed/`."""
    return f"{root}{_DAY}{day.isoformat()}/"


def round_folder(day: date, round_id: str) -> str:
    """Folder of one round; its objects are `original.tar`, `perturbed.tar` and the commit `metadata.parquet`."""
    return f"{day_folder(ROUNDS, day)}{round_id}/"


def commit_key(day: date, round_id: str) -> str:
    """The object that makes a round exist."""
    return round_folder(day, round_id) + COMMIT


def pending_key(round_id: str, slice_number: int) -> str:
    """Some answers of a round that is being verified elsewhere; gone when the round is."""
    return f"{PENDING}{round_id}/{slice_number:04d}.arrow"


def manifest_key(day: date) -> str:
    """The object that makes a sealed day exist."""
    return day_folder(SEALED, day) + MANIFEST


def attempt_folder(day: date, attempt: str) -> str:
    """Where one try to seal a day writes its files."""
    return f"{day_folder(SEALED, day)}{attempt}/"


def log_key(sequence: int) -> str:
    """The place of a sealed day in the order of sealing, counted from 0."""
    return f"{LOG}{sequence:08d}.json"


def parse_day(text: str) -> date:
    """A day written as 2026-01-31. Raises SettingsError otherwise."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(f"day {text!r} is not a date; write it as 2026-01-31") from error


def folder_day(name: str) -> date | None:
    """The day of a folder name `date=2026-01-31`; None for any other name."""
    try:
        return date.fromisoformat(name.removeprefix(_DAY)) if name.startswith(_DAY) else None
    except ValueError:
        return None


def original_name(original_sha256: str) -> str:
    """Member of a clean image: half its pixel identity is name enough."""
    return f"{original_sha256[:32]}.original.png"


def perturbed_name(record_id: str) -> str:
    """Member of a perturbed image."""
    return f"{record_id}.perturbed.png"
