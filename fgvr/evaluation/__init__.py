"""Which images methods are compared on, the comparison of their names, and the value of aspects."""
