"""What predicts: trained models, and what they have in common."""
