"""Keys of the corpus, relative to its root. `docs/corpus.md` describes the same layout for readers."""

from datetime import date

from perturb.schemas.errors import SettingsError

ROUNDS = "rounds/"
SEALED = "sealed/"
LATE = "sealed/late/"
PENDING = "pending/"
ANSWERS = "answers/"
ANSWERS_NOTE = "answers/complete.json"
COMMIT = "metadata.parquet"
MANIFEST = "manifest.json"
_DAY = "date="


def day_folder(root: str, day: date) -> str:
    """Return `rounds/date=2026-01-31/`, or the same below `sealed/`."""
    return f"{root}{_DAY}{day.isoformat()}/"


def round_folder(day: date, round_id: str) -> str:
    """Return the folder of one round. It holds `original.tar`, `perturbed.tar` and the commit `metadata.parquet`."""
    return f"{day_folder(ROUNDS, day)}{round_id}/"


def commit_key(day: date, round_id: str) -> str:
    """Return the key of the object that makes a round exist."""
    return round_folder(day, round_id) + COMMIT


def pending_key(round_id: str, slice_number: int) -> str:
    """Return the key of a slice of a round's responses on its way to a worker. It is deleted with the round."""
    return f"{PENDING}{round_id}/{slice_number:04d}.arrow"


def answers_folder(original_sha256: str) -> str:
    """Return the folder of what was accepted for one photograph (`perturb.sinks.corpus.answers`)."""
    return f"{ANSWERS}{original_sha256[:2]}/{original_sha256}/"


def answers_key(original_sha256: str, number: int) -> str:
    """Return the key of object `number` in that folder. There is one, or a few for a moment."""
    return f"{answers_folder(original_sha256)}{number:08d}.arrow"


def manifest_key(day: date) -> str:
    """Return the key of the object that makes a sealed day exist."""
    return day_folder(SEALED, day) + MANIFEST


def attempt_folder(day: date, attempt: str) -> str:
    """Return the folder that one try to seal a day writes its files into."""
    return f"{day_folder(SEALED, day)}{attempt}/"


def day_table_key(folder: str, kind: str) -> str:
    """Return the key of a table beside the metadata of a sealed day, in the folder of its files."""
    return f"{folder}{kind}-00000.parquet"


def late_key(day: date, sealed: date) -> str:
    """Return the key of the empty object that says that sealed day `sealed` has records of the earlier `day`."""
    return f"{day_folder(LATE, day)}{sealed.isoformat()}"


def parse_day(text: str) -> date:
    """Return the day that is written as 2026-01-31. Raises SettingsError for any other text."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(f"day {text!r} is not a date; write it as 2026-01-31") from error


def folder_day(name: str) -> date | None:
    """Return the day of a folder name `date=2026-01-31`, or None for any other name."""
    try:
        return date.fromisoformat(name.removeprefix(_DAY)) if name.startswith(_DAY) else None
    except ValueError:
        return None


def original_name(original_sha256: str) -> str:
    """Return the tar member's name of a clean image: the first half of its pixel identity, which is unique enough."""
    return f"{original_sha256[:32]}.original.png"


def perturbed_name(record_id: str) -> str:
    """Return the tar member's name of a perturbed image."""
    return f"{record_id}.perturbed.png"
