"""Classifiers of stored vectors: prototypes, label propagation, trained heads, and decisions under costs."""
