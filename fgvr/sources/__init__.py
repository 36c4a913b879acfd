"""Sources of photos: folders, tables of URIs, tars, Parquet files, public data sets, COCO files, synthetic drawings."""
