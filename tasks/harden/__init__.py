"""Hardening: a network trained on what the corpus found against its parent."""
