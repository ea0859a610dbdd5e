"""The reference attacks, and attacks of other packages: `load_attack("pgd")`, `load_attack("my_package:mine")`."""

from importlib import import_module

from perturb.attacks.base import Attack
from perturb.schemas.errors import SettingsError

#: Name -> `module:function`. A module is imported when its attack is loaded.
ATTACKS = {
    "pgd": "perturb.attacks.pgd:attack",
    "fgsm": "perturb.attacks.fgsm:attack",
    "mi-fgsm": "perturb.attacks.mi_fgsm:attack",
    "grid": "perturb.attacks.grid:attack",
}

__all__ = ["ATTACKS", "Attack", "load_attack"]


def load_attack(name: str) -> Attack:
    """Return the attack of this name, or the function that `module:function` names.

    Raises SettingsError for an unknown name, and for a module that cannot be imported or lacks the function.
    """
    place = ATTACKS.get(name, name)
    module, colon, function = place.partition(":")
    accepted = f"accepted: {', '.join(ATTACKS)}, or module:function (see docs/mining.md)"
    if not (colon and module and function):
        raise SettingsError(f"attack {name!r} is not known; {accepted}")
    try:
        attack: Attack = getattr(import_module(module), function)
    except ImportError as error:
        raise SettingsError(f"attack {name!r}: module {module!r} cannot be imported ({error}); {accepted}") from error
    except AttributeError as error:
        raise SettingsError(f"attack {name!r}: module {module!r} has no {function!r}; {accepted}") from error
    if not callable(attack):
        raise SettingsError(f"attack {name!r} is a {type(attack).__name__}, not a function; {accepted}")
    return attack
