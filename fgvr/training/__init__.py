"""Training loops in plain PyTorch; Ray Train only calls them."""
