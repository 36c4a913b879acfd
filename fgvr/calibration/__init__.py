"""A promised precision: from which score on predictions are right often enough, and for what else somebody is asked."""
