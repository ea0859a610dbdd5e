"""Whose signatures count on this machine: the own hotkey's, and those of `subnet.trusted_validators`."""

from collections.abc import Collection
from contextlib import suppress

from perturb.schemas.errors import SettingsError
from perturb.schemas.settings import SubnetSettings
from perturb.schemas.trust import Trust
from perturb.subnet.keys import LOCAL_NETWORK, is_hotkey, load_keypair


def load_trust(settings: SubnetSettings, *, hotkeys: Collection[str] = (), allow_unsigned: bool = False) -> Trust:
    """Return the trust in `hotkeys` alone or, without any, in the own hotkey and `subnet.trusted_validators`.

    A machine without a key of its own trusts the list only, and nobody without a list. No key is drawn for that.
    `allow_unsigned` is that of `Trust`. Raises SettingsError for a text that is not a hotkey, and SettingsError and
    SubnetError as `load_keypair`.
    """
    trusted = tuple(hotkeys) or (*_own(settings), *settings.trusted_validators)
    for hotkey in trusted:
        if not is_hotkey(hotkey):
            raise SettingsError(
                f"{hotkey!r} is not a hotkey; accepted: ss58 addresses, 48 characters with a valid checksum "
                "(--hotkey, or subnet.trusted_validators in perturb.toml)"
            )
    return Trust(frozenset(trusted), allow_unsigned)


def _own(settings: SubnetSettings) -> tuple[str, ...]:
    if settings.wallet_name is None:
        if settings.network != LOCAL_NETWORK:
            return ()
        if settings.hotkey_uri is None:
            # Without a home folder there is no file either.
            with suppress(RuntimeError):
                if settings.hotkey_file.expanduser().exists():
                    return (load_keypair(settings).ss58_address,)
            return ()
    return (load_keypair(settings).ss58_address,)
