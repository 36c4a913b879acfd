"""The quality of predicted names, measured against the true names or without them.

In every metric a prediction that failed or abstained is the empty name, which is always wrong: its image stays in
the denominator and scores 0.
"""
