"""The validator's whole examination of an attack, on this machine."""
