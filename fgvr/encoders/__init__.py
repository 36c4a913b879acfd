"""Image encoders: which one a config means, its vectors of photos, and how a model folder keeps the one it needs."""
