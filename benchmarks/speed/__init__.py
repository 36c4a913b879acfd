"""What a step, a stage or a command costs beside the plain way of doing the same."""
