"""The error tree. Every message names the offending value, what would be accepted, and how to go on."""


class PerturbError(Exception):
    """Anything that ends a command. Its message is one sentence written for the person who runs it."""

    exit_code = 1


class SettingsError(PerturbError):
    """A setting, argument or environment variable is missing or out of range."""

    exit_code = 2


class SourceError(PerturbError):
    """A source of clean images is empty, unreachable, or gave something that is not an image."""

    exit_code = 3


class ModelError(PerturbError):
    """A classifier or judge cannot be loaded, or gave an unusable number."""

    exit_code = 4


class StoreError(PerturbError):
    """The object store cannot be reached, read or written."""

    exit_code = 5


class SubnetError(PerturbError):
    """The chain, the wallet or the roster of neurons is unusable."""

    exit_code = 6


class CorpusError(PerturbError):
    """The corpus contradicts itself, or a step was asked for that its state does not allow."""

    exit_code = 7


class AuditError(PerturbError):
    """An audit ran to its end and found faults."""

    exit_code = 8


class TierError(PerturbError):
    """A tier file is wrong, or an export would let out what its tier does not grant."""

    exit_code = 9
