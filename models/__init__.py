"""The classifier, the judge and the image metrics."""
