"""Where and how stages run: Ray session, row-parallel parts, training, tracking. This package knows Ray and MLflow."""
