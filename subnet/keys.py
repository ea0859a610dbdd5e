"""The identity on the subnet: the hotkey that signs requests, responses, weights and commitments."""

import os
import re
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from perturb.schemas.errors import SettingsError, SubnetError
from perturb.schemas.settings import SubnetSettings

LOCAL_NETWORK = "local"
SS58_LENGTH = 48
_SS58_FORMAT = 42


class Keypair(Protocol):
    """The part of `bittensor.keyfiles.Keypair` that this project uses. Keys are sr25519."""

    @property
    def ss58_address(self) -> str: ...

    @property
    def public_key(self) -> bytes: ...

    @property
    def crypto_type(self) -> int: ...

    def sign(self, data: bytes, /) -> bytes: ...


def load_keypair(settings: SubnetSettings) -> Keypair:
    """Return the hotkey that `settings` name: of a wallet on disk or, on the local network, a key without a wallet.

    That is the development key of `hotkey_uri` or, without one, a key that the first call draws and keeps in
    `hotkey_file`, so that nobody else can sign for a corpus that was made without a wallet.

    An encrypted hotkey is opened with `wallet_password`, never with a prompt. Raises SettingsError where a chain is
    configured without a wallet, SubnetError where the key file is missing, locked or broken.
    """
    if settings.wallet_name is None:
        if settings.network != LOCAL_NETWORK:
            raise SettingsError(
                f"subnet.network is {settings.network!r} but subnet.wallet_name is not set; name a wallet whose hotkey "
                f"is registered on netuid {settings.netuid}, or set subnet.network to 'local'"
            )
        if settings.hotkey_uri is None:
            return _drawn_keypair(settings.hotkey_file)
        return development_keypair(settings.hotkey_uri.get_secret_value())
    return _open_hotkey(settings)


def development_keypair(uri: str) -> Keypair:
    """Return the key of a derivation path such as `//Alice`. Such keys are public: for local networks only."""
    from bittensor_core import Keypair as Sr25519Keypair

    try:
        if not uri:
            raise ValueError("empty")
        keypair: Keypair = Sr25519Keypair.create_from_uri(uri)
    except ValueError as error:
        # The URI may be a mnemonic, so the message does not repeat it.
        raise SettingsError(
            "subnet.hotkey_uri is not a key; accepted: a path such as //Alice, or a mnemonic "
            "(set it in perturb.toml or PERTURB_SUBNET__HOTKEY_URI)"
        ) from error
    return keypair


def _drawn_keypair(path: Path) -> Keypair:
    """Return the key whose seed `path` holds; draw it if the file does not exist."""
    return development_keypair(_kept_seed(path))


def _kept_seed(path: Path) -> str:
    """Return the seed (0x and 64 hex digits) that `path` holds; draw it if the file does not exist."""
    try:
        path = path.expanduser()
        if not path.exists():
            _draw(path)
        seed = path.read_text(encoding="ascii").strip()
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the own key of the local network cannot be kept in {path}: {error}; set subnet.hotkey_file to a file "
            "that this user can write, or name a wallet"
        ) from error
    if not re.fullmatch(r"0x[0-9a-f]{64}", seed):
        # The content is not repeated: it may be a key in another form.
        raise SettingsError(
            f"{path} does not hold a key; accepted: 0x and 64 hex digits. Restore it, or move it away to draw a new key"
        )
    return seed


def _draw(path: Path) -> None:
    """Create `path`, for its owner only, with a new seed. Of several processes one wins and the others keep its key."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(f"0x{secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(handle)
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()


def is_hotkey(address: str) -> bool:
    """Return whether `address` is an ss58 address of the Bittensor format: 48 characters, with a valid checksum."""
    if len(address) != SS58_LENGTH or not address.isascii():
        return False
    from bittensor_core import ss58_decode, ss58_encode

    try:
        return bool(ss58_encode(ss58_decode(address), _SS58_FORMAT) == address)
    except ValueError:
        return False


def _open_hotkey(settings: SubnetSettings) -> Keypair:
    from bittensor.keyfiles import Keyfile, KeyfileError, WrongPasswordError

    try:
        folder = settings.wallet_path.expanduser()
    except RuntimeError as error:
        raise SettingsError(
            f"subnet.wallet_path {settings.wallet_path} names a user without a home folder; give the whole path in "
            "perturb.toml or PERTURB_SUBNET__WALLET_PATH"
        ) from error
    path = folder / str(settings.wallet_name) / "hotkeys" / settings.wallet_hotkey
    keyfile = Keyfile(path)
    try:
        path.stat()
    except FileNotFoundError as error:
        raise SubnetError(
            f"wallet {settings.wallet_name!r} has no hotkey {settings.wallet_hotkey!r}: {path} is not there; "
            f"accepted: {_found(folder)}; create one with `btcli wallet new-hotkey`, or correct subnet.wallet_name, "
            "subnet.wallet_hotkey or subnet.wallet_path"
        ) from error
    except OSError as error:
        raise SubnetError(
            f"hotkey {path} cannot be opened: {error.strerror}; check its permissions and subnet.wallet_path"
        ) from error
    password = settings.wallet_password
    try:
        if keyfile.is_encrypted() and password is None:
            raise SubnetError(
                f"hotkey {path} is encrypted; put its password into PERTURB_SUBNET__WALLET_PASSWORD, "
                "or use a hotkey without one"
            )
        keypair: Keypair = keyfile.get_keypair(password.get_secret_value() if password else None)
    except (KeyfileError, WrongPasswordError, ValueError, OSError) as error:
        raise SubnetError(f"hotkey {path} can't be opened: {error}; check its permissions and password") from error
    return keypair


def _found(folder: Path) -> str:
    names = sorted(f"{path.parent.parent.name}/{path.name}" for path in folder.glob("*/hotkeys/*"))
    names = [name for name in names if not name.endswith("pub.txt")]
    return ", ".join(names[:8]) if names else f"none found in {folder}"


def companion_keypair(settings: SubnetSettings, hotkey: str) -> Keypair:
    """Return the ed25519 key that signs certificates beside `hotkey`, for tools that don't know sr25519.

    The first call draws it and keeps its seed beside the key of the local network, readable by this user only. Raises
    SettingsError where it can't be kept there or was damaged.
    """
    from bittensor_core import Keypair as Ed25519Keypair

    path = settings.hotkey_file.with_name(f"{hotkey}.ed25519")
    seed = bytes.fromhex(_kept_seed(path).removeprefix("0x"))
    keypair: Keypair = Ed25519Keypair.create_from_seed(seed, crypto_type=0)
    return keypair
