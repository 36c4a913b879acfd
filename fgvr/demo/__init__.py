"""The drawn field guide: fine-grained birds drawn by seed, and two tiny models trained on other drawings."""
