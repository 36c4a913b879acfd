"""fgvr: fine-grained recognition of unlabelled photos, from multimodal-LLM labels to a small classifier.

This package holds *what* is computed. It knows neither Ray nor MLflow; `cluster/` knows where and how.
"""

from fgvr import torchvision_cpu

__version__ = "0.2.0"

torchvision_cpu.install_import_hook()
