"""The model track: networks that miners commit to are fetched, measured, and ranked."""
