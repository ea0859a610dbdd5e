"""The tree of errors. Each message names the invalid value, what is accepted, and what to do."""


class PerturbError(Exception):
    """The base of all errors that end a command. The message is one sentence for the person who runs it."""

    exit_code = 1


class SettingsError(PerturbError):
    """A setting, argument or environment variable is missing or out of range."""

    exit_code = 2


class SourceError(PerturbError):
    """A source of clean images is empty, cannot be reached, or returned something that is not an image."""

    exit_code = 3


class ModelError(PerturbError):
    """A classifier or judge cannot be loaded, or returned an unusable number."""

    exit_code = 4


class StoreError(PerturbError):
    """The object store cannot be reached, read or written."""

    exit_code = 5


class SubnetError(PerturbError):
    """The chain, the wallet or the roster of neurons cannot be used."""

    exit_code = 6


class CorpusError(PerturbError):
    """The corpus contradicts itself, or its state does not allow a step."""

    exit_code = 7


class AuditError(PerturbError):
    """An audit was completed and found faults."""

    exit_code = 8


class TierError(PerturbError):
    """A tier file is invalid, or an export would contain data that its tier does not grant."""

    exit_code = 9


class AttackError(PerturbError):
    """An attack raised, or returned something else than a perturbed image of the right type and shape."""
