"""A roster: the neurons of a local or test network, in a TOML file instead of on a chain.

[[neuron]]
hotkey = "5F..."
endpoint = "127.0.0.1:8091"     # also uid, coldkey, stake, validator_permit

[[validator]]
hotkey = "5D..."                # may send challenges, as may a neuron with validator_permit = true

[[commitment]]
hotkey = "5F..."                # a miner's commitments to networks; the newest entry of a hotkey counts
text = '{"h":"…","u":"http://127.0.0.1:8200/w.safetensors"}'
at = 1767225600                 # seconds since 1970
"""

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tomli_w
from pydantic import ValidationError

from perturb.schemas.commitment import Committed
from perturb.schemas.errors import SubnetError
from perturb.schemas.neuron import Neuron
from perturb.subnet.keys import is_hotkey

_HEAD = (
    "# Neurons of a local network. `endpoint` is ip:port; [[validator]] lists the hotkeys that may send challenges.\n"
)
_TABLES = "[[neuron]], [[validator]] and [[commitment]] tables"


@dataclass(frozen=True)
class Skipped:
    """A neuron that is skipped in a round, and the reason."""

    uid: int | None
    hotkey: str
    reason: str


@dataclass(frozen=True)
class Roster:
    """The content of a roster file. `skipped` are the entries that cannot be used."""

    neurons: tuple[Neuron, ...]
    validators: frozenset[str]
    skipped: tuple[Skipped, ...]
    commitments: tuple[Committed, ...] = ()

    def commitments_at(self, moment: int) -> list[Committed]:
        """Return the commitment of each hotkey that was the newest at `moment`, in seconds since 1970."""
        newest: dict[str, Committed] = {}
        for one in sorted(self.commitments, key=lambda one: one.at):
            if one.at <= moment:
                newest[one.hotkey] = one
        return list(newest.values())


def read_roster(path: Path) -> Roster:
    """Return the roster in a file.

    Wrong entries are skipped with a reason. A neuron without `uid` gets its place in the file, from 0.
    Raises SubnetError where the file is missing, is not TOML, or has another shape.
    """
    try:
        document = tomllib.loads(path.expanduser().read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SubnetError(f"roster {path} can't be read: {error.strerror}; name a TOML file of [[neuron]]") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SubnetError(f"roster {path} is not TOML: {error}; accepted: {_TABLES}") from error
    unknown = sorted(set(document) - {"neuron", "validator", "commitment"})
    if unknown:
        raise SubnetError(f"roster {path} has {', '.join(unknown)}; accepted: {_TABLES}")

    neurons: list[Neuron] = []
    skipped: list[Skipped] = []
    uids: set[int] = set()
    for place, entry in enumerate(_tables(document, "neuron", path)):
        neuron = _read_neuron(entry, place)
        if isinstance(neuron, Skipped):
            skipped.append(neuron)
        elif neuron.uid in uids or any(neuron.hotkey == other.hotkey for other in neurons):
            skipped.append(Skipped(neuron.uid, neuron.hotkey, f"neuron {place + 1}: its uid or hotkey is listed twice"))
        else:
            uids.add(neuron.uid)
            neurons.append(neuron)
    validators = {neuron.hotkey for neuron in neurons if neuron.validator_permit}
    for place, entry in enumerate(_tables(document, "validator", path)):
        hotkey = str(entry.get("hotkey"))
        if is_hotkey(hotkey):
            validators.add(hotkey)
        else:
            skipped.append(Skipped(None, hotkey[:64], f"validator {place + 1}: {hotkey[:64]!r} is not an ss58 address"))
    commitments = []
    for place, entry in enumerate(_tables(document, "commitment", path)):
        try:
            commitments.append(Committed.model_validate(entry))
        except ValidationError as error:
            issue = error.errors(include_url=False)[0]
            reason = f"commitment {place + 1}: {'.'.join(map(str, issue['loc']))}: {issue['msg']}"
            skipped.append(Skipped(None, str(entry.get("hotkey", ""))[:64], reason))
    return Roster(tuple(neurons), frozenset(validators), tuple(skipped), tuple(commitments))


def add_commitment(path: Path, committed: Committed) -> None:
    """Append a commitment to a roster. Raises SubnetError where its hotkey is not a neuron of that roster."""
    if committed.hotkey not in {neuron.hotkey for neuron in read_roster(path).neurons}:
        raise SubnetError(f"hotkey {committed.hotkey} is not a neuron of roster {path}; add it as a [[neuron]] first")
    with path.expanduser().open("a", encoding="utf-8") as file:
        file.write("\n[[commitment]]\n" + tomli_w.dumps(committed.model_dump()))


def write_roster(path: Path, neurons: Iterable[Neuron], *, validators: Iterable[str] = ()) -> None:
    """Write a roster from which `read_roster` returns the same neurons and validators."""
    document = {
        "neuron": [neuron.model_dump() for neuron in neurons],
        "validator": [{"hotkey": hotkey} for hotkey in validators],
    }
    tables = tomli_w.dumps({name: entries for name, entries in document.items() if entries})
    path.write_text(f"{_HEAD}\n{tables}", encoding="utf-8")


def _tables(document: dict[str, object], name: str, path: Path) -> Iterator[dict[str, object]]:
    entries = document.get(name, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SubnetError(f"roster {path}: {name} is not a list of tables; write [[{name}]] before each")
    yield from entries


def _read_neuron(entry: dict[str, object], place: int) -> Neuron | Skipped:
    hotkey = str(entry.get("hotkey", ""))[:64]
    try:
        neuron = Neuron.model_validate({"uid": place} | entry)
    except ValidationError as error:
        issue = error.errors(include_url=False)[0]
        name = ".".join(map(str, issue["loc"]))
        return Skipped(None, hotkey, f"neuron {place + 1}: {name}: {issue['msg']}")
    if not is_hotkey(neuron.hotkey):
        return Skipped(neuron.uid, hotkey, f"neuron {place + 1}: hotkey {hotkey!r} is not an ss58 address")
    if not 0 <= neuron.uid < 2**16:
        return Skipped(neuron.uid, hotkey, f"neuron {place + 1}: uid {neuron.uid} is not within 0..65535")
    return neuron
