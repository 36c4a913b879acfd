"""CLIP (open_clip): image and text features, learned prompts, and the classifiers made of them."""
