"""A multimodal LLM that vLLM runs inside the worker: finding, checking, starting, feeding and asking the model."""
