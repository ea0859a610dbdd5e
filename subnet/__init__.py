"""Bittensor: neurons, the signed transport between validators and miners, weights and commitments."""
