"""Where records end: the object store, tar and Parquet files, committed rounds and sealed days."""
