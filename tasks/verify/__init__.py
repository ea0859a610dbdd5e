"""From the bytes of an answer to its verdict and score, and the same again from a stored record."""
