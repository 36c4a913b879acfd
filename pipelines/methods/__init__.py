"""The compared methods: each names the same images in a table of its own, `eval_<method>`."""
