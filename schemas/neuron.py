"""A participant of the subnet."""

from pydantic import BaseModel, ConfigDict


class Neuron(BaseModel):
    """One row of the metagraph or of a roster file: its keys, and the endpoint where it answers.

    `endpoint` is `ip:port` with an IP literal; `stake` is in TAO-equivalents, as in the metagraph.
    """

    model_config = ConfigDict(frozen=True)

    uid: int
    hotkey: str
    coldkey: str = ""
    endpoint: str
    stake: float = 0.0
    validator_permit: bool = False
