"""Metadata of photos as the input of a classifier: values and missing flags, with what was fitted to read them."""
