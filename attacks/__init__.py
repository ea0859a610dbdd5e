"""The reference attacks, and the way to one's own: `load_attack("pgd")`, `load_attack("my_package.attacks:mine")`."""

from importlib import import_module

from perturb.attacks.base import Attack
from perturb.schemas.errors import SettingsError

#: Name -> `module:function`. Modules are imported when their attack is asked for.
ATTACKS = {
    "pgd": "perturb.attacks.pgd:attack",
    "fgsm": "perturb.attacks.fgsm:attack",
    "mi-fgsm": "perturb.attacks.mi_fgsm:attack",
    "grid": "perturb.attacks.grid:attack",
}

__all__ = ["ATTACKS", "Attack", "load_attack"]


def load_attack(name: str) -> Attack:
    """The attack of this name, or the function that `module:function` names.

    Raises SettingsError when there is none, or when its module can't be imported.
    """
    place = ATTACKS.get(name, name)
    module, colon, function = place.partition(":")
    accepted = f"accepted: {', '.join(ATTACKS)}, or module:function (see docs/mining.md)"
    if not (colon and module and function):
        raise SettingsError(f"attack {name!r} is not known; {accepted}")
    try:
        attack: Attack = getattr(import_module(module), function)
    except ImportError as error:
        raise SettingsError(f"attack {name!r}: module {module!r} can't be imported ({error}); {accepted}") from error
    except AttributeError as error:
        raise SettingsError(f"attack {name!r}: module {module!r} has no {function!r}; {accepted}") from error
    if not callable(attack):
        raise SettingsError(f"attack {name!r} is a {type(attack).__name__}, not a function; {accepted}")
    return attack
