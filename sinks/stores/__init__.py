"""Object stores: a directory or S3, under one contract."""
