"""CLIP (open_clip): image and text features, learned prompts, and the classifiers built from them."""
