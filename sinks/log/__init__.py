"""The corpus' log: what was sealed, planned, certified, promoted and revoked, in one order, under one signed root."""
