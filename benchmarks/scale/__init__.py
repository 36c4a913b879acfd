"""What grows with the number of photos and the number of workers."""
