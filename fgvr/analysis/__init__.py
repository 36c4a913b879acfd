"""What aspects tell: about classes, about the student that learned them, and what they cost."""
