"""A labeller that learns: GRPO with LoRA on the multimodal LLM, from photos whose name is trusted (experimental)."""
