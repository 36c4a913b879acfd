"""How good a list of predicted names is, against the true names or without them.

In every metric a prediction that failed or abstained is the empty name, and the empty name is always wrong: its
image stays in the denominator and scores 0.
"""
