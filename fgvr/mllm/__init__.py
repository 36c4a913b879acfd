"""Multimodal language models: prompts, engines, answers made into labels, and probabilities of yes/no aspects."""

from fgvr.mllm.backend import EngineDead

__all__ = ["EngineDead"]
