"""Trains the two tiny models of the demo from scratch, on drawings that no field guide shows."""
