"""The datasets that are sold: their files, cards and statistics."""
