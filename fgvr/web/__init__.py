"""Reading from web servers that nobody here controls: which may be asked, how hard, and how much is taken."""
