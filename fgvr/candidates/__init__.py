"""Candidate sets: which names an image may have, from its nearest neighbours' labels, and how noisy these are."""
