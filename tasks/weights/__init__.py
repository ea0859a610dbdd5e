"""Histories of miners, and weights from these."""
