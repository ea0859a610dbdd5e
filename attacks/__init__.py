"""The reference attacks, and attacks of other packages: `load_attack("pgd")`, `load_attack("my_package:mine")`."""

from importlib import import_module

from perturb.attacks.base import Attack
from perturb.attacks.checked import CheckedAttack, check_signature, described
from perturb.schemas.errors import AttackError, SettingsError

#: Name -> `module:function`. A module is imported when its attack is loaded.
ATTACKS = {
    "pgd": "perturb.attacks.pgd:attack",
    "fgsm": "perturb.attacks.fgsm:attack",
    "mi-fgsm": "perturb.attacks.mi_fgsm:attack",
    "grid": "perturb.attacks.grid:attack",
}

__all__ = ["ATTACKS", "Attack", "AttackError", "load_attack"]


def load_attack(name: str) -> Attack:
    """Return the attack of this name, or the function that `module:function` names.

    What it returns is checked: see `perturb.attacks.checked.CheckedAttack`, which raises AttackError. Raises
    SettingsError for an unknown name, for a module that cannot be imported or lacks the function, and for a function
    that cannot be called as an attack.
    """
    place = ATTACKS.get(name, name)
    module, colon, function = place.rpartition(":")
    accepted = f"accepted: {', '.join(ATTACKS)}, or module:function (see docs/mining.md)"
    if "/" in module or "\\" in module or module.startswith(".") or module.endswith(".py"):
        raise SettingsError(
            f"attack {name!r} names a file; give the module's name, such as my_attack:attack, "
            "and put its folder on PYTHONPATH"
        )
    if not (colon and module and function):
        raise SettingsError(f"attack {name!r} is not known; {accepted}")
    try:
        attack: Attack = getattr(import_module(module), function)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        where = f"{error}; " if error.name and f"{module}.".startswith(f"{error.name}.") else f"{described(error)}; "
        raise SettingsError(
            f"attack {name!r}: module {module!r} cannot be imported: {where}modules are found on PYTHONPATH; {accepted}"
        ) from error
    except AttributeError as error:
        if error.name != function:
            raise SettingsError(f"attack {name!r}: module {module!r} cannot be imported: {described(error)}") from error
        raise SettingsError(f"attack {name!r}: module {module!r} has no {function!r}; {accepted}") from error
    # A module runs its own code when it is imported, and that may raise anything: SyntaxError, SystemExit, ...
    except BaseException as error:
        raise SettingsError(f"attack {name!r}: module {module!r} cannot be imported: {described(error)}") from error
    if wrong := check_signature(attack):
        raise SettingsError(f"attack {name!r} {wrong}; {accepted}")
    return CheckedAttack(name, attack)
