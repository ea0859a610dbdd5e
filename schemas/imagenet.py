"""The classes of ImageNet-1k, by which challenges and records name labels."""

NUM_CLASSES = 1000
