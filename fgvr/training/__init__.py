"""Training loops in plain PyTorch; cluster.train calls them."""
