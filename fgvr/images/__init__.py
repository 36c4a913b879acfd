"""Reading untrusted images from disks, object stores, web servers, tars and Parquet files, and decoding them."""
