"""Bittensor: who takes part, the signed transport between validators and miners, weights and commitments."""
