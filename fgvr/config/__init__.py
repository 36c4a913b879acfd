"""One tree of pydantic models that decides what a run computes, and how it is read."""

from fgvr.config.data import Discovery, ImageLimits, Ingest
from fgvr.config.distill import Distill
from fgvr.config.distillation import MLLM_TEACHER, Dkd, Kd, NoDistillation
from fgvr.config.load import ConfigError, as_given, build, load_config, to_yaml
from fgvr.config.makd import Aspects, Makd, Questions
from fgvr.config.models import Clip, Mllm, OpenAIBackend, SimulatedBackend, VllmBackend
from fgvr.config.near import Candidates, Embed, Label, Near
from fgvr.config.neighbours import NeighbourSearch
from fgvr.config.run import Config, Evaluate, Infer
from fgvr.config.vectors import ClipVectors, FileVectors, SimulatedVectors, TimmVectors

__all__ = [
    "MLLM_TEACHER",
    "Aspects",
    "Candidates",
    "Clip",
    "ClipVectors",
    "Config",
    "ConfigError",
    "Discovery",
    "Distill",
    "Dkd",
    "Embed",
    "Evaluate",
    "FileVectors",
    "ImageLimits",
    "Infer",
    "Ingest",
    "Kd",
    "Label",
    "Makd",
    "Mllm",
    "Near",
    "NeighbourSearch",
    "NoDistillation",
    "OpenAIBackend",
    "Questions",
    "SimulatedBackend",
    "SimulatedVectors",
    "TimmVectors",
    "VllmBackend",
    "as_given",
    "build",
    "load_config",
    "to_yaml",
]
