"""Images that lie inside larger files: members of tars, rows of Parquet files. Read in place, never extracted."""
