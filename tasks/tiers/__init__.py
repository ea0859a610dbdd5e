"""Tier files, their predicates, and what a tier grants."""
