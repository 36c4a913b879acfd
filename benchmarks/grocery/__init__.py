"""Real photos (Grocery Store): halves and questions of the data set, and tiny models trained on its photos."""
