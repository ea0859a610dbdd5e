"""Whose signatures count: the validators that a person who reads or continues a corpus trusts."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Trust:
    """The hotkeys whose signatures count; None accepts every hotkey and what is not signed.

    `allow_unsigned` also accepts what has no signature, for trying things out. A signature of another hotkey is
    refused all the same.
    """

    hotkeys: frozenset[str] | None
    allow_unsigned: bool = False

    def signer_fault(self, signer: str | None) -> str | None:
        """Return why what `signer` signed, or nobody (None), does not count; None when it does."""
        if self.hotkeys is None or signer in self.hotkeys or (signer is None and self.allow_unsigned):
            return None
        return f"it is signed by {signer or 'no one'}, not by {self.named}"

    def validators_fault(self, validators: Collection[str]) -> str | None:
        """Return which of the validators that records name are not trusted; None when all are."""
        strangers = () if self.hotkeys is None else sorted(set(validators) - self.hotkeys)
        return f"its records are from {', '.join(strangers)}, not only from {self.named}" if strangers else None

    @property
    def named(self) -> str:
        """The trusted hotkeys for a sentence."""
        return " or ".join(sorted(self.hotkeys or ())) or "a trusted validator, as none is configured"


ANYONE = Trust(None)
"""Accepts every signer. A pure function's default; the steps on a configured corpus never use it."""
