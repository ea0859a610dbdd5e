"""From a photograph to a challenge, and from a challenge to what miners answered."""
