"""What grows with the number of photos and of workers."""
