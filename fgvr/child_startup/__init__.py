"""A folder for the PYTHONPATH of child processes; a package only so that it is installed."""
