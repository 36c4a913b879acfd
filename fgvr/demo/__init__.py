"""The drawn field guide: synthetic fine-grained birds, and two tiny models trained on other drawings."""
