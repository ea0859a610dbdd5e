"""Pages, pictures and metrics for operators and their monitoring."""
