"""The miner: the server that answers validators' challenges with an attack, and reference miners for one machine."""
