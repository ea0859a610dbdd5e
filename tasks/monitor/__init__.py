"""What an operator looks at: status, costs, readiness, pictures."""
