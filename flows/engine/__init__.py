"""How flows run: the production line, distributed verification, task runners, signals, the Prefect server."""
