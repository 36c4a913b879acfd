"""Pretrained weights: where they come from, what matches, what the sentence says, and what is refused."""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import timm
import torch
from safetensors.torch import load, save, save_file, save_model
from torch import Tensor

from fgvr.encoders.distilled import new_head
from fgvr.errors import UserError
from fgvr.models.distilled import DistilledSpec, save_distilled
from fgvr.models.start_match import Start, check_values, classifier_names, start_of
from fgvr.models.start_weights import StartError, find_start
from fgvr.models.student import StudentSpec, build_student, save_student, timm_preprocess
from tests.fgvr.models.timm_folders import BACKBONE, DATA, timm_folder

HEAD = {"head.fc.weight", "head.fc.bias"}


def spec(backbone: str = BACKBONE, **more: Any) -> StudentSpec:
    made = StudentSpec(backbone, ("Wren", "Teal", "Gull"), ("Is it red?",), timm_preprocess(backbone, 32))
    return replace(made, **more)


def network(backbone: str = BACKBONE, **more: Any) -> dict[str, Tensor]:
    """Weights of a thousand classes, as timm's own are."""
    torch.manual_seed(5)
    state: dict[str, Tensor] = timm.create_model(backbone, **more).state_dict()
    return state


def start(place: Path | str, backbone: str = BACKBONE, **more: Any) -> Start:
    return start_of(find_start(str(place), backbone), spec(backbone, **more))


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("backbone", [BACKBONE, "test_resnet", "test_vit", "test_vit2", "test_convnext"])
def test_the_backbone_is_taken_and_the_classifier_is_new(tmp_path: Path, backbone: str) -> None:
    image = {} if "vit" not in backbone else {"img_size": 32}
    whole = network(backbone, **image)
    save_file(whole, tmp_path / "w.safetensors")
    found = start(tmp_path / "w.safetensors", backbone)
    heads = classifier_names(timm.create_model(backbone, num_classes=4, **image))
    assert len(heads) == 2
    assert same(found.tensors, {name: value for name, value in whole.items() if name not in heads})
    student = build_student(spec(backbone))
    missing = student.load_state_dict(found.tensors, strict=False)
    assert set(missing.missing_keys) == heads
    # What timm itself makes of the same weights: the same features.
    photos = torch.randn(2, 3, 32, 32)
    own = timm.create_model(
        backbone, pretrained=True, pretrained_cfg_overlay={"state_dict": whole}, num_classes=4, **image
    ).eval()
    with torch.no_grad():
        mine = student.eval()
        theirs = own.forward_head(own.forward_features(photos), pre_logits=True)
        torch.testing.assert_close(mine.forward_head(mine.forward_features(photos), pre_logits=True), theirs)


def test_the_sentence_says_what_matched_and_what_did_not(tmp_path: Path) -> None:
    whole = network()
    torch.save({"state_dict": {f"module.backbone.{name}": value for name, value in whole.items()}}, tmp_path / "w.pth")
    count = len(build_student(spec()).state_dict())
    numbers = sum(value.numel() for name, value in whole.items() if name not in HEAD)
    assert start(tmp_path / "w.pth").sentence == (
        f"w.pth: {count - 2} of the student's {count} tensors start from it ({numbers:,} numbers); the classifier "
        "(head.fc.bias, head.fc.weight) is new, for 3 classes and 1 aspects; theirs has 1000 outputs; not used of "
        "theirs: head.fc.weight, head.fc.bias (2)"
    )
    del whole["head.fc.weight"], whole["head.fc.bias"]
    save_file(whole, tmp_path / "headless.safetensors")
    assert start(tmp_path / "headless.safetensors").sentence.endswith("for 3 classes and 1 aspects; they have none")


@pytest.mark.parametrize("nested", ["state_dict", "model", "model_ema", "state_dict_ema", None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "backbone.", "module._orig_mod.", "model.backbone."])
def test_checkpoints_of_trainings(tmp_path: Path, nested: str | None, prefix: str) -> None:
    whole = network()
    weights = {prefix + name: value for name, value in whole.items()}
    # An average is what a training with one validates and keeps; what is outside of the backbone is not ours.
    weights |= {"projector.0.weight": torch.zeros(2)} if "backbone" in prefix else {}
    content: Any = weights if nested is None else {"epoch": 3, "optimizer": {"lr": [0.1]}, nested: weights}
    if nested is not None and "ema" in nested:
        content["state_dict"] = {name: value + 1 for name, value in weights.items()}
    torch.save(content, tmp_path / "w.pth")
    found = start(tmp_path / "w.pth")
    assert same(found.tensors, {name: value for name, value in whole.items() if name not in HEAD})
    assert ("projector.0.weight" in found.sentence) == ("backbone" in prefix)


def test_half_precision_becomes_the_student_s_and_counters_may_lack(tmp_path: Path) -> None:
    whole = {name: value.half() for name, value in network().items() if not name.endswith("num_batches_tracked")}
    save_file(whole, tmp_path / "w.safetensors")
    found = start(tmp_path / "w.safetensors").tensors
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert same(found, {name: value.float() for name, value in whole.items() if name not in HEAD})


def test_position_embeddings_of_another_size_are_resampled_as_timm_does(tmp_path: Path) -> None:
    whole = network("test_vit")  # of 160 px
    save_file(whole, tmp_path / "w.safetensors")
    found = start(tmp_path / "w.safetensors", "test_vit")
    own = timm.create_model(
        "test_vit", pretrained=True, pretrained_cfg_overlay={"state_dict": whole}, num_classes=4, img_size=32
    ).state_dict()
    assert found.tensors["pos_embed"].shape != whole["pos_embed"].shape
    assert same(found.tensors, {name: value for name, value in own.items() if not name.startswith("head.")})
    assert "resampled for 32 px: pos_embed" in found.sentence


def test_a_folder_of_timm_states_its_input(tmp_path: Path) -> None:
    whole = network()
    folder = timm_folder(tmp_path / "net", whole)
    found = find_start(str(folder), f"{BACKBONE}.r160_in1k")  # the backbone's own tag says nothing of the weights
    assert (found.mean, found.std, found.architecture) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), BACKBONE)
    assert same(start(folder).tensors, {name: value for name, value in whole.items() if name not in HEAD})
    assert timm_preprocess(BACKBONE, 32, None, found.mean, found.std).mean == (0.4, 0.5, 0.6)
    assert timm_preprocess(BACKBONE, 32, None, None, None) == timm_preprocess(BACKBONE, 32)
    (folder / "model.safetensors").unlink()
    torch.save(whole, folder / "pytorch_model.bin")
    assert start(folder).tensors.keys() == start_of(found_again(folder), spec()).tensors.keys()


def found_again(folder: Path) -> Any:
    return find_start(f"file://{folder}/", BACKBONE)


def test_the_demos_weights_are_of_its_backbone() -> None:
    assert start("demo", "test_byobnet").sentence.startswith("the demo's weights: ")
    found = find_start("demo", "test_byobnet")
    assert (found.mean, found.std) == ((0.5,) * 3, (0.25,) * 3)
    with pytest.raises(StartError, match="these are weights of test_byobnet"):
        find_start("demo", "resnet18")


def test_a_distilled_encoder_gives_its_backbone_and_its_input(tmp_path: Path) -> None:
    table = tmp_path / "table"
    made = DistilledSpec(BACKBONE, replace(timm_preprocess(BACKBONE, 64), mean=(0.1, 0.2, 0.3)))
    whole = {name: value for name, value in network().items() if name not in HEAD}
    weights = {f"backbone.{name}": value for name, value in whole.items()}
    weights |= {f"head.{name}": value for name, value in new_head(256, 20).state_dict().items()}
    save_distilled(table / "model", made, weights, {"kind": "clip"}, {})
    for place in (table / "model", table):
        assert find_start(str(place), BACKBONE).mean == (0.1, 0.2, 0.3)
        assert same(start(place).tensors, whole)  # the head into the teacher's space is no classifier
    with pytest.raises(StartError, match=f"these are weights of {BACKBONE}"):
        find_start(str(table), "resnet18")
    (table / "model/model.json").write_text('{"kind": "near"}')
    with pytest.raises(StartError, match="Only students and encoders can be started from"):
        find_start(str(table), BACKBONE)
    (table / "model/model.json").write_text("{")
    with pytest.raises(StartError, match="is damaged"):
        find_start(str(table), BACKBONE)


def test_an_earlier_student_keeps_its_classifier_only_where_outputs_are_the_same(tmp_path: Path) -> None:
    first = build_student(spec())
    torch.manual_seed(9)
    weights = build_student(spec()).state_dict()
    stated = replace(spec().preprocess, mean=(0.1, 0.2, 0.3))
    save_student(tmp_path / "table" / "model", spec(preprocess=stated), weights, {})
    found = find_start(str(tmp_path / "table"), BACKBONE)  # the table that holds a model, as for teachers
    assert found.mean == (0.1, 0.2, 0.3)
    whole = start_of(found, spec())
    assert same(whole.tensors, weights)
    assert whole.sentence.endswith("the classifier, too, since its 3 classes and 1 aspects are the same")
    for other in (spec(labels=("Teal", "Wren", "Gull")), spec(questions=("Is it big?",)), spec(questions=())):
        again = start_of(found, other)
        assert again.tensors.keys() == weights.keys() - HEAD
        assert "theirs has 4 outputs" in again.sentence
    assert start_of(found, spec(), keep_classifier=False).tensors.keys() == weights.keys() - HEAD
    assert first.state_dict().keys() == weights.keys()


def test_the_same_weights_are_the_same_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))
    folder = timm_folder(tmp_path / "net", network())
    shutil.copytree(folder, tmp_path / "copy")
    here = find_start(str(folder), BACKBONE).identity()
    assert find_start(str(tmp_path / "copy"), BACKBONE).identity() == here
    assert str(tmp_path) not in repr(here)
    remote = fsspec.filesystem("memory")
    remote.put(str(folder) + "/", "/start/net/", recursive=True)
    assert find_start("memory://start/net", BACKBONE).identity() == here
    on_store = find_start("memory://start/net/model.safetensors", BACKBONE)
    assert on_store.identity() == find_start(str(folder / "model.safetensors"), BACKBONE).identity()
    assert on_store.identity() != here  # a bare file says nothing of mean and std
    facts = json.loads((folder / "config.json").read_text())
    facts["pretrained_cfg"]["mean"] = [0, 0, 0]
    (folder / "config.json").write_text(json.dumps(facts))
    assert find_start(str(folder), BACKBONE).identity() != here


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub that holds one model, offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repo = tmp_path / "hub" / "models--owner--net"
    timm_folder(repo / "snapshots" / ("a" * 40), network())
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    return repo


def test_a_hub_name_is_its_commit(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_start("hf-hub:owner/net", BACKBONE)
    assert found.identity() == {"hub": "hf-hub:owner/net", "commit": "a" * 40}
    assert found.mean == (0.4, 0.5, 0.6)
    assert find_start(f"hf-hub:owner/net@{'a' * 40}", BACKBONE).identity() == found.identity()
    assert start("hf-hub:owner/net").tensors.keys() == network().keys() - HEAD
    # A tag of timm is the hub model that timm names for it.
    facts = timm.get_pretrained_cfg("test_byobnet.r160_in1k")
    assert facts.hf_hub_id == "timm/test_byobnet.r160_in1k"
    hub.rename(hub.with_name("models--timm--test_byobnet.r160_in1k"))
    for name in ("r160_in1k", "test_byobnet.r160_in1k"):
        assert find_start(name, BACKBONE).identity()["hub"] == "hf-hub:timm/test_byobnet.r160_in1k"


class Program:
    """Pickles as a call that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_pickled_program_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    for name in ("w.pth", "w.bin"):
        torch.save({"state_dict": network(), "args": Program(mark)}, tmp_path / name)
        with pytest.raises(StartError, match=rf"makd\.weights: {name}: .*more than tensors.*not loaded.*safetensors"):
            start(tmp_path / name)
    shutil.copy(tmp_path / "w.pth", tmp_path / "w.safetensors")
    with pytest.raises(StartError, match=r"makd\.weights: .*w\.safetensors: cannot be read as weights"):
        start(tmp_path / "w.safetensors")
    assert not mark.exists()


def changed(whole: dict[str, Tensor], name: str, value: float) -> dict[str, Tensor]:
    tensor = whole[name].clone()
    tensor.view(-1)[1] = value
    return {**whole, name: tensor}


FIRST = "stem.conv.weight"
UNLIKE: dict[str, tuple[Any, str]] = {
    "other": (lambda _: network("test_resnet"), r"0 of its \d+ tensors match, 0% of its parameters, and all must"),
    "half": (lambda w: dict(list(w.items())[: len(w) // 2]), r"[345]\d of its 8\d tensors match, \d+% .* is missing"),
    "more": (lambda w: {**w, "stages.9.conv.weight": torch.zeros(2)}, r"they have 1 tensors more \(stages\.9\.conv"),
    "wider": (lambda w: {**w, FIRST: torch.zeros(99, 3, 3, 3)}, r"stem\.conv\.weight has shape \[99, 3, 3, 3\] for"),
    "grey": (lambda w: {**w, FIRST: w[FIRST][:, :1]}, r"is for images of 1 channel, and photos have 3"),
    "nan": (lambda w: changed(w, FIRST, float("nan")), r"stem\.conv\.weight has 1 values that are NaN or infinite"),
    "infinite": (lambda w: changed(w, FIRST, float("inf")), r"NaN or infinite: .* take another checkpoint"),
    "whole numbers": (lambda w: {**w, FIRST: w[FIRST].to(torch.int8)}, r"stem\.conv\.weight is torch\.int8; .*quant"),
}


@pytest.mark.parametrize("case", UNLIKE)
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, case: str, ending: str) -> None:
    make, message = UNLIKE[case]
    weights = {name: value.contiguous() for name, value in make(network()).items()}
    place = tmp_path / f"w{ending}"
    save_file(weights, place) if ending == ".safetensors" else torch.save(weights, place)
    with pytest.raises(StartError, match=rf"makd\.weights: w{ending}.*{message}"):
        start(place)
    assert issubclass(StartError, UserError)


def test_a_smaller_relative_of_the_weights_is_refused(tmp_path: Path) -> None:
    """Each tensor of a ResNet-18 is in a ResNet-34, in its shape, and half of the network would be left out."""
    save_file(network("resnet34"), tmp_path / "w.safetensors")
    with pytest.raises(
        StartError, match=r"does not fit makd\.backbone = resnet18: they have 96 tensors more \(layer1\.2"
    ):
        start(tmp_path / "w.safetensors", "resnet18")


def test_numbers_that_are_not_taken_may_be_anything(tmp_path: Path) -> None:
    save_file(changed(network(), "head.fc.weight", float("nan")), tmp_path / "w.safetensors")
    assert "head.fc.weight" not in start(tmp_path / "w.safetensors").tensors


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("/no/such.pth", r"makd\.weights = /no/such\.pth: there is nothing at this path\. Name a file"),
        ("/no/folder", r"makd\.weights = /no/folder: there is nothing at this path"),
        ("owner/net", r"makd\.weights = owner/net: there is nothing at this path.*hf-hub:owner/name"),
        ("memory://no/such.pth", r"there is nothing at this path"),
        ("{place}/empty.pth", r"empty\.pth is empty: it was probably not written to its end"),
        ("{place}/empty.safetensors", r"empty\.safetensors is empty"),
        ("{place}/text.pth", r"text\.pth: cannot be read as weights"),
        ("{place}/text.safetensors", r"text\.safetensors: cannot be read as weights"),
        ("{place}/numbers.pth", r"numbers\.pth holds no mapping of names to tensors"),
        ("{place}/none.pth", r"none\.pth holds no tensors"),
        ("{place}/text.npz", r"the name of a file of weights must end in \.safetensors, \.pth"),
        ("{place}/folder.pth", r"this is no file"),
        ("{place}/bare", r"the folder has neither a model\.json .* nor a config\.json"),
        ("{place}/unnamed", r"names no `architecture`"),
        ("{place}/damaged", r"config\.json is not JSON"),
        ("{place}/weightless", r"holds no weights \(model\.safetensors or pytorch_model\.bin\)"),
        ("{place}/resnet", r"these are weights of test_resnet; take that as makd\.backbone, or weights of test_byob"),
        ("{place}/grey", r"grey is for images of 1 channel, and photos have 3 \(red, green, blue\)"),
        ("{place}/two", r"mean and std must be three numbers each.*mean = \(0\.5, 0\.5\)"),
        ("{place}/flat", r"std = \[0\.2, 0\.0, 0\.2\] must be above 0"),
        ("{place}/near", r"kind 'near', format 1; expected student.*Only students and encoders can be started from"),
        ("hf-hub:owner/none", r"the Hugging Face hub did not give hf-hub:owner/none: HF_HUB_OFFLINE.*name a file or"),
        ("r160_in1k", r"did not give hf-hub:timm/test_byobnet\.r160_in1k: HF_HUB_OFFLINE"),
        (
            "imagenet",
            r"neither a path .* nor a hub name .* nor a tag of timm; timm's tags for test_byobnet are r160_in",
        ),
        ("resnet18.a1_in1k", r"these are weights of resnet18; take that as makd\.backbone"),
    ],
)
def test_what_are_no_weights_is_refused(
    tmp_path: Path, weights: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("empty.pth", "empty.safetensors"):
        (tmp_path / name).touch()
    for name in ("text.pth", "text.safetensors", "text.npz"):
        (tmp_path / name).write_text("no weights")
    torch.save({"state_dict": {"a": 3}}, tmp_path / "numbers.pth")
    torch.save({}, tmp_path / "none.pth")
    for name in ("folder.pth", "bare", "near"):
        (tmp_path / name).mkdir()
    (tmp_path / "near" / "model.json").write_text('{"format": 1, "kind": "near"}')
    few = {"a": torch.zeros(1)}
    timm_folder(tmp_path / "unnamed", few, architecture=None)
    (timm_folder(tmp_path / "damaged", few) / "config.json").write_text("{")
    (timm_folder(tmp_path / "weightless", few) / "model.safetensors").unlink()
    timm_folder(tmp_path / "resnet", few, architecture="test_resnet.r160_in1k")
    timm_folder(tmp_path / "grey", few, pretrained_cfg={**DATA, "input_size": [1, 32, 32]})
    timm_folder(tmp_path / "two", few, pretrained_cfg={**DATA, "mean": [0.5, 0.5]})
    timm_folder(tmp_path / "flat", few, pretrained_cfg={**DATA, "std": [0.2, 0, 0.2]})
    with pytest.raises(StartError, match=message):
        start(weights.replace("{place}", str(tmp_path)))


def test_parameters_that_a_backbone_shares_start_from_either_form(tmp_path: Path) -> None:
    """CoaT names one parameter in several places: torch.save keeps all names, safetensors one of them."""
    backbone = "coat_lite_tiny"
    model = timm.create_model(backbone, img_size=32)
    whole = model.state_dict()
    torch.save(whole, tmp_path / "all.pth")
    save_model(model, tmp_path / "one.safetensors")
    for name in ("all.pth", "one.safetensors"):
        found = start_of(find_start(str(tmp_path / name), backbone), spec(backbone))
        assert load(save(found.tensors)).keys() == found.tensors.keys()  # as it is written for the workers
        assert all(torch.equal(value, whole[place]) for place, value in found.tensors.items())


def test_tables_of_indices_are_the_architectures_own() -> None:
    own = {"weight": torch.zeros(2), "index": torch.arange(3)}
    check_values("w", {"weight": torch.ones(2), "index": torch.arange(3)}, own)
    with pytest.raises(StartError, match="the table index is that of another architecture"):
        check_values("w", {"index": torch.arange(3) + 1}, own)
    with pytest.raises(StartError, match="quantised"):
        check_values("w", {"weight": torch.ones(2, dtype=torch.int8)}, own)
    with pytest.raises(StartError, match="NaN"):
        check_values("w", {"weight": torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)}, own)


def test_tensors_without_plain_numbers_are_refused(tmp_path: Path) -> None:
    whole = network()
    name = next(iter(whole))
    for odd in (torch.zeros(2, 2).to_sparse(), torch.zeros(2, device="meta")):
        torch.save({**whole, name: odd}, tmp_path / "odd.pth")
        with pytest.raises(UserError, match="no plain tensor"):
            start(tmp_path / "odd.pth")


def test_damaged_files_of_the_older_format_are_refused_in_a_sentence(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    data, rng = (tmp_path / "old.pth").read_bytes(), random.Random(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[rng.randrange(2_000)] = rng.randrange(256)
        (tmp_path / "damaged.pth").write_bytes(damaged)
        try:
            start(tmp_path / "damaged.pth")
        except UserError:
            refused += 1
    assert refused > 100
