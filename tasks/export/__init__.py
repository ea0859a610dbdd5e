"""Exports of tiers, and how subscribers get them."""
