"""Sweeps over the training stages with Ray Tune."""
