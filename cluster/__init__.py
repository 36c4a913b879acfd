"""Where and how it runs: Ray session, row-parallel parts, training, tracking. Knows Ray and MLflow."""
