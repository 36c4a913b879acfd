"""Candidate sets: which names an image may have, by the labels of its nearest neighbours, and how noisy these are."""
