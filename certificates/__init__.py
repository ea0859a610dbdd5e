"""Robustness certificates: planned, measured, signed and verified; the commands are in `cli/certificates.py`."""
