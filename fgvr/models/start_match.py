"""Pretrained weights against a student's backbone: all of it must be there, and only the classifier may differ.

Half-matching weights would train without any error, and worse than they should: so they are refused, with what differs.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fgvr.encoders.weight_file import AVERAGE_FIRST, WeightFileError, read_tensors
from fgvr.models.start_weights import CHANNELS, FIELD, StartError, StartWeights, channels_refused
from fgvr.models.student import StudentSpec, build_student

log = logging.getLogger(__name__)

PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.")
"""What trainings put before the names of a model's tensors: several workers, torch.compile, parts of a larger model."""
HEADS = ("fc", "head", "heads", "head_dist", "classifier", "last_linear", "linear")
"""First parts of the names that classifiers have in timm, torchvision and older versions of timm."""
COUNTERS = "num_batches_tracked"
"""Steps that a batch normalisation has seen: files of old versions lack them, and nothing depends on them here."""
SHOWN = 3
CONVERT_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError),
    *(TypeError, ValueError),
)
"""What timm's conversions raise for tensors that they do not expect."""
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Start:
    """What a student starts from.

    Attributes:
        tensors: by the student's names, in its types, on the CPU: its whole backbone, and its classifier if that was
            taken, too.
        sentence: what matched and what did not.
    """

    tensors: Tensors
    sentence: str


@dataclass(frozen=True)
class _Fitted:
    """A file's tensors under a student's names; those dropped on the way, and those whose shape changed."""

    tensors: Tensors
    dropped: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)


def start_of(weights: StartWeights, spec: StudentSpec, *, keep_classifier: bool = True) -> Start:
    """Read the weights for this student.

    Args:
        weights: as `find_start` found them; files of a hub model are fetched.
        spec: the student.
        keep_classifier: take the classifier, too, where an earlier student has the same outputs.

    Raises:
        StartError: the weights lack a part of the backbone or have more than it, are of another shape, are no numbers,
            or the file holds something else.
    """
    weights = weights.in_files()
    if weights.file is None:
        raise ValueError(f"{weights.name} has no file")
    try:
        given = read_tensors(weights.file, AVERAGE_FIRST)
    except WeightFileError as error:
        raise StartError(f"{FIELD}: {error}") from error
    student = build_student(spec)
    own, heads = student.state_dict(), classifier_names(student)
    fitted = _fitted(student, own, heads, given)
    found = fitted.tensors
    same_outputs = (weights.labels, weights.questions, weights.choices) == (spec.labels, spec.questions, spec.choices)
    kept = keep_classifier and same_outputs and all(name in found for name in heads)
    taken = {name: found[name] for name in own if name in found and (kept or name not in heads)}
    _check(weights.name, spec.backbone, own, heads, found)
    check_values(weights.name, taken, own)
    # Copies of their own: tensors that share memory cannot be written.
    tensors = {name: value.to(own[name].dtype).contiguous().clone() for name, value in taken.items()}
    return Start(tensors, _sentence(weights, spec, own=own, heads=heads, fitted=fitted, tensors=tensors))


def classifier_names(model: nn.Module) -> frozenset[str]:
    """Names of the tensors of a timm model's classifier, whose shapes depend on the number of outputs."""
    made: Any = model
    found = made.get_classifier()
    heads = found if isinstance(found, tuple | list) else (found,)
    places = {name for name, module in model.named_modules() if any(module is head for head in heads)}
    return frozenset(
        name for name in model.state_dict() if any(name.startswith(f"{place}.") for place in places if place)
    )


def _fitted(student: nn.Module, own: Tensors, heads: frozenset[str], given: Tensors) -> _Fitted:
    """The given tensors under the student's names, as far as prefixes and timm's own conversions lead there."""
    plain = _with_shared(student, _without_prefixes(given, own))
    if not _differences(own, heads, plain.tensors):
        return plain
    # Older names, and position embeddings of another input size: what timm does when it loads its own files.
    convert = getattr(sys.modules[type(student).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return plain
    try:
        found = convert(dict(plain.tensors), student)
    except CONVERT_ERRORS as error:
        log.debug("%s: timm does not convert these weights: %r", FIELD, error)  # then they are judged as they are
        return plain
    if not isinstance(found, Mapping) or _differences(own, heads, found):
        return plain
    before = plain.tensors
    resized = [name for name in own if name in before and name in found and before[name].shape != found[name].shape]
    return _Fitted(dict(found), plain.dropped, resized)


def _with_shared(student: nn.Module, fitted: _Fitted) -> _Fitted:
    """The same, with parameters that several names of the student share under all of them: a file may have one."""
    names: dict[int, list[str]] = {}
    for name, parameter in student.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    found = dict(fitted.tensors)
    for shared in names.values():
        there = next((found[name] for name in shared if name in found), None)
        if len(shared) > 1 and there is not None:
            found |= {name: there for name in shared if name not in found}
    return _Fitted(found, fitted.dropped, fitted.resized)


def _without_prefixes(given: Tensors, own: Tensors) -> _Fitted:
    """The tensors without the prefixes that most of their names have and no name of the model has."""
    found, dropped, left = given, list[str](), True
    while left:
        left = False
        for prefix in PREFIXES:
            named = [name for name in found if name.startswith(prefix)]
            if 2 * len(named) > len(found) and not any(name.startswith(prefix) for name in own):
                dropped += [name for name in found if not name.startswith(prefix)]
                found, left = {name.removeprefix(prefix): found[name] for name in named}, True
    return _Fitted(found, dropped)


def _differences(own: Tensors, heads: frozenset[str], found: Mapping[str, Any]) -> list[str]:
    """Names of the backbone's tensors that are not there, or in another shape."""
    needed = [name for name in own if name not in heads]
    return [
        name
        for name in needed
        if (name not in found and not name.endswith(COUNTERS))
        or (name in found and getattr(found[name], "shape", None) != own[name].shape)
    ]


def _check(name: str, backbone: str, own: Tensors, heads: frozenset[str], found: Tensors) -> None:
    """Raise StartError if the backbone is not wholly there, or the weights have more layers than it."""
    what = f"{FIELD}: {name} does not fit makd.backbone = {backbone}: "
    remedy = "Take weights of this architecture, or the backbone that they belong to (with makd.backbone_args)"
    differ = _differences(own, heads, found)
    for place in differ:
        shape, wanted = tuple(found[place].shape) if place in found else (), own[place].shape
        if len(shape) == len(wanted) == 4 and wanted[1] == CHANNELS != shape[1] and shape[0] == wanted[0]:
            raise StartError(channels_refused(name, int(shape[1])))
    if differ:
        needed = [each for each in own if each not in heads and not each.endswith(COUNTERS)]
        fits = sum(own[each].numel() for each in needed if each not in differ)
        share = fits / max(1, sum(own[each].numel() for each in needed))
        shapes = [
            f"{each} has shape {list(found[each].shape)} for {list(own[each].shape)}"
            if each in found
            else f"{each} is missing"
            for each in differ[:SHOWN]
        ]
        raise StartError(
            f"{what}{len(needed) - len(differ)} of its {len(needed)} tensors match, {share:.0%} of its parameters, and "
            f"all must ({'; '.join(shapes)}{' …' if len(differ) > SHOWN else ''}). {remedy}"
        )
    more = [each for each in found if each not in own and each.split(".")[0] not in HEADS]
    if more:
        raise StartError(f"{what}they have {len(more)} tensors more ({_listed(more)}). {remedy}")


def check_values(name: str, taken: Tensors, own: Tensors) -> None:
    """Raise StartError for weights that are no numbers, or stored as integers for another kind of computation."""
    for place, value in taken.items():
        if place.endswith(COUNTERS):
            continue
        if not own[place].is_floating_point():  # an index table, which the architecture decides
            if not torch.equal(value.to(own[place].dtype), own[place]):
                raise StartError(f"{FIELD}: {name}: the table {place} is that of another architecture or input size")
            continue
        if not value.is_floating_point():
            raise StartError(f"{FIELD}: {name}: {place} is {value.dtype}; take weights that are not quantised")
        finite = torch.isfinite(value.float())  # not known for 8-bit floats
        if not bool(finite.all()):
            bad = int((~finite).sum())
            raise StartError(
                f"{FIELD}: {name}: {place} has {bad} values that are NaN or infinite: the training that made it "
                "diverged, or the file is damaged; take another checkpoint"
            )


def _sentence(
    weights: StartWeights, spec: StudentSpec, *, own: Tensors, heads: frozenset[str], fitted: _Fitted, tensors: Tensors
) -> str:
    """What matched and what did not, for the log and the table's metadata."""
    found, parts = fitted.tensors, sum(value.numel() for value in tensors.values())
    matched = f"{weights.name}: {len(tensors)} of the student's {len(own)} tensors start from it ({parts:,} numbers)"
    if fitted.resized:
        matched += f", resampled for {spec.preprocess.input_size} px: {_listed(fitted.resized)}"
    choices = f" and {len(spec.choices)} choice questions" if spec.choices else ""
    outputs = f"{len(spec.labels)} classes and {len(spec.questions)} aspects{choices}"
    if heads <= tensors.keys():
        head = f"the classifier, too, since its {outputs} are the same"
    else:
        theirs = next((found[name].shape[0] for name in sorted(heads) if name in found and found[name].ndim), None)
        had = "they have none" if theirs is None else f"theirs has {theirs} outputs"
        head = f"the classifier ({_listed(sorted(heads))}) is new, for {outputs}; {had}"
    left = [*fitted.dropped, *(name for name in found if name not in tensors)]
    unused = f"; not used of theirs: {_listed(left)} ({len(left)})" if left else ""
    return f"{matched}; {head}{unused}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")
