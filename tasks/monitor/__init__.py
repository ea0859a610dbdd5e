"""What operators look at: status, costs, readiness, pictures."""
