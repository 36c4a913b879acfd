"""A multimodal LLM behind an OpenAI-compatible server: requests within its limits, parsing and caching of replies."""
