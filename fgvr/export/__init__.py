"""What leaves a run: its models for other runtimes, its photos with their names for other tools, its vectors."""
