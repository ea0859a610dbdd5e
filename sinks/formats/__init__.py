"""File formats: tar, Parquet, Merkle trees, and the version rule."""
