"""Files of vectors that somebody else has made: read, checked, and put in the order of the samples."""
