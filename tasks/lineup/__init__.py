"""Which networks there are to attack: found by name and by digest, and loaded."""
