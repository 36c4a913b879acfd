"""From a model's words to names: answers read, cleaned and merged into a label space."""
