"""Where the shipped models lie."""

from pathlib import Path
from typing import Final

MLLM_PATH: Final = Path(__file__).parent / "models" / "mllm"
"""An HF ``InternVLForConditionalGeneration`` checkpoint, which vLLM and transformers load."""

CLIP_PATH: Final = Path(__file__).parent / "models" / "clip"
"""An open_clip folder: ``open_clip.create_model_and_transforms(f"local-dir:{CLIP_PATH}")``."""

BACKBONE_PATH: Final = Path(__file__).parent / "models" / "backbone"
"""A folder as timm saves it: the network that students start from (`makd.weights: demo`)."""
