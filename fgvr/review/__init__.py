"""What people decide about photos and names: the log, what follows from it, the audit, and the page that writes it."""
