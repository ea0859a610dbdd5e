"""Committed rounds and sealed days on a store."""
