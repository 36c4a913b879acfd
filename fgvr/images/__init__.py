"""Images of unknown origin, read from disks, object stores, web servers, tars and Parquet files, become pixels."""
