"""Any source of images -> validated Parquet."""
