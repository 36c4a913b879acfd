"""From a model's words to names: parsing answers, cleaning names, and merging them into a label space."""
