"""Trained models as MLflow models that classify images, for `mlflow.pyfunc.load_model` and `mlflow models serve`.

    model = mlflow.pyfunc.load_model("runs:/<run id>/makd")
    model.predict(pandas.DataFrame({"image": ["bird.jpg", Path("finch.png").read_bytes()]}))  # label, score, error

The model has no input schema: with one, MLflow would refuse lists, PIL images and missing values before the model sees
them, and would decode base64 text as the bytes of a file in only two of its four JSON formats. `predict` documents its
inputs. The model folder is an artifact; the code is this project's `fgvr` and `cluster/pyfunc_model.py`. Nothing is
pickled.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from PIL import Image

import fgvr
from fgvr.models.base import read_model_file

REQUIREMENTS = (
    "torch",
    "torchvision",
    "timm",
    "safetensors",
    "numpy",
    "pandas",
    "pillow",
    "simplejpeg",
    "opencv-python-headless",
    "fsspec",
    "pyarrow",
    "pydantic",
    "pyyaml",
)
CLIP_REQUIREMENTS = ("open_clip_torch", "transformers")
"""Models on CLIP's vectors need these, too; heads, whose encoder may be CLIP."""
# Parts of fgvr that no classifier needs: the demo's models, the MLLM backends, the report.
LEFT_OUT = ("__pycache__", "demo", "report", "datasets", "metrics", "child_startup")


def log_classifier(folder: Path, name: str) -> str:
    """Log a model folder to the active MLflow run.

    Args:
        folder: a model folder for `fgvr.models.infer.load_classifier`.
        name: name of the logged model.

    Returns:
        URI for `mlflow.pyfunc.load_model`.

    Raises:
        ModelFolderError: the folder has no model.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    model_kind = read_model_file(folder)["kind"]
    columns = {"label": DataType.string, "score": DataType.float, "error": DataType.string}
    signature = ModelSignature(outputs=Schema([ColSpec(kind, name, required=False) for name, kind in columns.items()]))
    with tempfile.TemporaryDirectory() as temporary:
        code = Path(temporary) / "fgvr"
        shutil.copytree(Path(fgvr.__file__).parent, code, ignore=shutil.ignore_patterns(*LEFT_OUT))
        logged = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"model": str(folder)},
            code_paths=[str(code)],
            signature=signature,
            input_example=example(),
            pip_requirements=requirements(model_kind),
        )
    return str(logged.model_uri)


def example() -> pd.DataFrame:
    """An example input: one small grey PNG file."""
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (128, 128, 128)).save(sink, "PNG")
    return pd.DataFrame({"image": [sink.getvalue()]})


def requirements(kind: str) -> list[str]:
    """The packages that a model of this kind needs, pinned to the installed versions."""
    names = (*REQUIREMENTS, *(CLIP_REQUIREMENTS if kind in {"near", "head"} else ()))
    # A local version part (+cpu, +cu130) exists on one package index only; elsewhere the plain version is the same
    # release.
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]
