"""The registry of targets on a store: the weights of every network that is or was attacked, with their cards."""
