"""The fixtures of tests that export."""

from tests.support.exports import no_fsync, plain_plots

__all__ = ["no_fsync", "plain_plots"]
