"""What a set of perturbations, and fresh attacks, do to a network."""
