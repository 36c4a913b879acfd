"""The stages, one file each, and `full.py` that runs them all."""
