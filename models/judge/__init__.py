"""The judge: whether a label still names what a photograph shows."""
