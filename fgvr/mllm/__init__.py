"""Multimodal language models: prompts, engines and servers, labels, and probabilities of yes/no aspects."""

from fgvr.mllm.backend import EngineDead

__all__ = ["EngineDead"]
