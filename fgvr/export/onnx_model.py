"""Trained models as ONNX files: students from photos, heads and prototypes from vectors.

The file says what a user needs: names, questions and preprocessing are in its `metadata_props`, as JSON. Source of the
form: the ONNX specification, and `torch.onnx.export` with `dynamo=True`.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

import fgvr
from fgvr.export.places import Destination, ExportError
from fgvr.heads.beside import SHARE
from fgvr.models.base import read_model_file
from fgvr.models.head import VectorClasses, load_vector_classes, read_head_file
from fgvr.models.student import StudentSpec, load_student
from fgvr.selection.whitening import ALIKE

MODEL: Final = "model.onnx"
OPSET: Final = 18
PARITY: Final = 1e-3
"""Largest difference of a probability that onnxruntime may give; an export beyond it is refused."""
TRIED: Final = 5
"""Inputs on which both are compared; not the number with which the graph was made, so that the batch axis counts."""
LACKING: Final = "needs the packages of the extra `export`: pip install onnx onnxscript onnxruntime"


class PhotoGraph(nn.Module):
    """uint8 RGB [N, 3, S, S], resized and cropped → probabilities [N, C], and p(yes) [N, Q] with aspect questions."""

    scale: Tensor
    shift: Tensor

    def __init__(self, spec: StudentSpec, model: nn.Module) -> None:
        super().__init__()
        self.spec, self.model = spec, model
        std = torch.tensor(spec.preprocess.std)
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1))
        self.register_buffer("shift", (torch.tensor(spec.preprocess.mean) / std).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Where the student learned from metadata, it sees the photos as if all columns were missing."""
        classes, aspects = self.spec.split(self.model(images.float() * self.scale - self.shift))
        return (classes.softmax(dim=1), *((aspects.sigmoid(),) if self.spec.questions else ()))


class VectorGraph(nn.Module):
    """Float32 vectors [N, d] of the encoder, of any length → probabilities [N, C]."""

    mean: Tensor
    matrix: Tensor
    shift: Tensor
    nothing: Tensor

    def __init__(self, classes: VectorClasses) -> None:
        super().__init__()
        self.members, self.temperature = nn.ModuleList(classes.members), classes.temperature
        self.whitened = classes.whitening is not None
        if classes.whitening is not None:
            for name in ("mean", "matrix", "shift"):
                self.register_buffer(name, torch.from_numpy(getattr(classes.whitening, name).astype(np.float32)))
        self.with_metadata = classes.metadata is not None
        if classes.metadata is not None:
            self.register_buffer("nothing", SHARE * torch.from_numpy(classes.metadata.none(1)))

    def forward(self, vectors: Tensor) -> tuple[Tensor]:
        """As `VectorClasses.scores`, as if all columns of metadata were missing."""
        seen = vectors
        if self.whitened:
            rows = _unit(vectors)
            away = rows - self.mean
            own = rows.abs().amax(1, keepdim=True).gt(0) & away.square().sum(1, keepdim=True).sqrt().gt(ALIKE)
            seen = _unit((_unit(away) @ self.matrix - self.shift) * own)
        if self.with_metadata:
            seen = torch.cat([seen, self.nothing.expand(seen.shape[0], -1)], dim=1)
        each = [(member(seen) / self.temperature).softmax(dim=1) for member in self.members]
        return (torch.stack(each).mean(dim=0),)


def _unit(rows: Tensor) -> Tensor:
    """Rows at length 1; rows of zero length stay zero."""
    lengths = rows.square().sum(1, keepdim=True).sqrt()
    return rows / torch.where(lengths > 0, lengths, 1.0)


def export_onnx(folder: Path, to: Destination) -> dict[str, Any]:
    """`model.onnx` of a model folder, and `labels.txt` with a name per line, in the order of the outputs.

    Where onnxruntime is installed, it must give the same probabilities within `PARITY`.

    Args:
        folder: a model's folder on this machine, of a student or a head.
        to: where.

    Raises:
        ExportError: ONNX is not installed, cannot express this model, or gives other probabilities.
        ModelFolderError: the folder is damaged.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ExportError(f"--to onnx {LACKING}") from None
    graph, example, said = _graph(folder)
    names = {"inputs": [said["input"]["name"]], "outputs": said["outputs"]}
    data = _exported(graph, example(2), said | {"made_with": f"fgvr {fgvr.__version__}"})
    worst = _difference(data, graph, example(TRIED), names["inputs"][0])
    if worst is not None and not worst <= PARITY:
        raise ExportError(f"onnxruntime gives probabilities that differ by {worst:.2g}: this model cannot be exported")
    to.write(MODEL, data)
    to.write("labels.txt", "".join(f"{_one_line(label)}\n" for label in said["labels"]).encode())
    return to.finish(
        {
            **{name: value for name, value in said.items() if name not in {"labels", "questions"}},
            "names": len(said["labels"]),
            "bytes": len(data),
            "largest_difference": worst,  # null: onnxruntime is not installed
        }
    )


def _graph(folder: Path) -> tuple[nn.Module, Any, dict[str, Any]]:
    """The graph, a function that gives n example inputs, and what the file says of them."""
    kind = read_model_file(folder)["kind"]
    if kind == "student":
        spec, model = load_student(folder)
        side = spec.preprocess.input_size
        given = {"name": "images", "type": "uint8", "shape": ["N", 3, side, side]}
        given["content"] = "RGB pixels 0 … 255 after resize and centre crop; normalised inside the graph"
        said = {
            "kind": kind,
            "labels": list(spec.labels),
            "questions": list(spec.questions),
            "input": given,
            "outputs": ["probabilities", *(["p_yes"] if spec.questions else [])],
            "preprocessing": _steps(spec),
            "backbone": spec.backbone,
            "trained_in": spec.precision,
            "metadata_columns": list(() if spec.metadata is None else spec.metadata.fitted.sources),
        }
        return PhotoGraph(spec, model).eval(), lambda count: example_pixels(count, side), said
    if kind == "head":
        classes = load_vector_classes(folder)
        dim = _vector_length(classes)
        said = {
            "kind": kind,
            "labels": list(classes.labels),
            "questions": [],
            "input": {"name": "vectors", "type": "float32", "shape": ["N", dim], "content": "vectors of the encoder"},
            "outputs": ["probabilities"],
            "encoder": read_head_file(folder)["encoder"],
            "metadata_columns": list(classes.columns),
        }
        return VectorGraph(classes).eval(), lambda count: _vectors(count, dim), said
    raise ExportError(f"--to onnx: a model of kind {kind} has no ONNX form here; students and heads have one")


def _steps(spec: StudentSpec) -> dict[str, Any]:
    """What is done to a photo before the graph, and the numbers inside it."""
    sizes = spec.preprocess
    steps = [
        "turn the photo upright by its EXIF orientation; convert it to RGB",
        f"shrink its shorter side to {sizes.stored_side} pixels where it is longer (area averaging)",
        f"crop the middle square with {sizes.input_size}/{sizes.resize} of the shorter side",
        f"resize it to {sizes.input_size} × {sizes.input_size} (bilinear; by averaging if it more than halves)",
    ]
    return {"steps": steps, **asdict(sizes)}


def _vector_length(classes: VectorClasses) -> int:
    if classes.whitening is not None:
        return len(classes.whitening.mean)
    first: Any = classes.members[0]
    width = int((first.hidden.weight if classes.kind == "mlp" else first.weight).shape[1])
    return width - (0 if classes.metadata is None else classes.metadata.dim)


def example_pixels(count: int, side: int) -> Tensor:
    """Images from smooth to noise, uint8 [count, 3, side, side]; always the same."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand((count, 3, 4, 4), generator=random)
    smooth = nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    noise = torch.rand((count, 3, side, side), generator=random)
    share = torch.linspace(0, 1, count).view(-1, 1, 1, 1)
    return (255 * ((1 - share) * smooth + share * noise)).to(torch.uint8)


def _vectors(count: int, dim: int) -> Tensor:
    """Vectors of which the last has no length, float32 [count, dim]; always the same."""
    rows = torch.randn((count, dim), generator=torch.Generator().manual_seed(0))
    rows[-1] = 0
    return rows


def _exported(graph: nn.Module, example: Tensor, said: dict[str, Any]) -> bytes:
    try:
        with _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[said["input"]["name"]],
                output_names=said["outputs"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                verbose=False,
            )
            for name, value in said.items():
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                program.model.metadata_props[name] = text
            with tempfile.TemporaryDirectory() as folder:
                program.save(str(Path(folder) / MODEL), external_data=False)
                return (Path(folder) / MODEL).read_bytes()
    except Exception as error:  # the exporter raises whatever its many steps raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"torch cannot write this model as ONNX ({type(error).__name__}: {reason[0][:300]})"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes about itself: what matters is compared afterwards."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _difference(data: bytes, graph: nn.Module, inputs: Tensor, name: str) -> float | None:
    """The largest difference of any output between onnxruntime and torch; None where onnxruntime is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: inputs.numpy()})
    with torch.inference_mode():
        wanted = graph(inputs)
    return max(float(np.abs(one - other.numpy()).max()) for one, other in zip(found, wanted, strict=True))


def _one_line(label: str) -> str:
    return " ".join(label.split())
