"""The drawn field guide: synthetic fine-grained birds, and three tiny models trained on other drawings."""
