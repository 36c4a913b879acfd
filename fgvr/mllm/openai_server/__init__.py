"""A multimodal LLM behind an OpenAI-compatible server: asked within its limits, its replies read and kept."""
