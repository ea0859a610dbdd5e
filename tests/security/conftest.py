"""What tests of several subjects share."""

from tests.miner.conftest import photo, start_miner

__all__ = ["photo", "start_miner"]
