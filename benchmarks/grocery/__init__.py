"""Real photos (Grocery Store): the data set's halves and questions, and tiny models trained on its own photos."""
