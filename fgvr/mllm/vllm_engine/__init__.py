"""A multimodal LLM that vLLM runs inside the worker: found, checked, started, fed and asked."""
