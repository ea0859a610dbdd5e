"""Commit rounds, seal days, remove garbage, audit and prove what was committed."""
