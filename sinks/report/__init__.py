"""Pages, pictures and metrics for people and monitoring."""
