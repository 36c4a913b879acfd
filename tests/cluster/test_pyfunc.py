import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image

from cluster.pyfunc import log_classifier, requirements
from cluster.tracking_store import prepare
from fgvr.models.base import ModelFolderError
from fgvr.models.infer import load_classifier
from fgvr.models.student import StudentSpec, build_student, save_student, timm_preprocess

FRESH = """
import json, sys
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
files = [open(path, "rb").read() for path in sys.argv[3:]]
frame = pandas.DataFrame({"image": [*files, None]}, index=[30, 10, 20, 40, 50])
answers = [model.predict(frame), model.predict([*sys.argv[3:], None])]
assert frame.index.equals(answers[0].index)
import fgvr
print(json.dumps([fgvr.__file__, *[answer.to_dict("list") for answer in answers]]))
"""


def student(folder: Path) -> Path:
    spec = StudentSpec("test_byobnet", ("Rötel", "b", "c"), ("Is it red?",), timm_preprocess("test_byobnet", 32))
    torch.manual_seed(0)
    save_student(folder, spec, build_student(spec).state_dict(), {})
    return folder


def near(folder: Path) -> Path:
    from fgvr.clip.model import load_clip
    from fgvr.clip.source import find_clip
    from fgvr.config.models import Clip
    from fgvr.models.near import NearModel, zero_shot_classes

    clip = load_clip(Clip(), "cpu")
    names = ["Crested Azure Finch", "Masked Olive Wren"]
    NearModel(zero_shot_classes(clip, names, "{}"), torch.zeros(1, 1), find_clip(Clip())).save(folder)
    return folder


def head(folder: Path) -> Path:
    from fgvr.config.models import Clip
    from fgvr.encoders.encoder import load_encoder
    from fgvr.models.head import HeadModel, VectorClasses
    from fgvr.selection.whitening import Whitening

    dim = load_encoder(Clip(model="demo")).dim
    directions = np.random.default_rng(0).normal(size=(2, dim)).astype(np.float32)
    plain = Whitening(np.zeros(dim), np.eye(dim), np.zeros(dim))
    classes = VectorClasses.of_directions(("Crested Azure Finch", "Masked Olive Wren"), directions, plain)
    HeadModel(classes, Clip(model="demo")).save(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("build", [student, near, head])
def test_a_fresh_process_classifies_image_bytes_as_the_model_itself(tmp_path, build):
    folder = build(tmp_path / "model")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    prepare(tmp_path / "mlflow.db")
    mlflow.set_tracking_uri(store)
    experiment = mlflow.create_experiment("test", artifact_location=str(tmp_path / "artifacts"))
    with mlflow.start_run(experiment_id=experiment):
        uri = log_classifier(folder, "makd")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)) for _ in range(3)]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    # From another folder and without this project on the path: the code comes from the logged model.
    arguments = [sys.executable, "-P", "-c", FRESH, store, uri, *map(str, [*paths, broken])]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True)
    source, frame, paths_list = json.loads(done.stdout.splitlines()[-1])
    assert Path(source).is_relative_to(tmp_path / "artifacts")
    assert str(frame) == str(paths_list)  # nan is not equal to itself
    classifier = load_classifier(folder)
    scores = classifier.scores(images)
    labels = [classifier.labels[best] for best in scores.argmax(1)]
    assert frame["label"] == [*labels, None, None]
    assert frame["score"][:3] == pytest.approx(scores.max(1), abs=1e-5)
    assert np.isnan(frame["score"][3:]).all()
    assert [error and error.split(":")[0] for error in frame["error"]] == [None] * 3 + ["not_an_image", "no_input"]
    if build is student:
        check_served(store, uri, [path.read_bytes() for path in paths], labels, tmp_path)


def check_served(store: str, uri: str, files: list[bytes], labels: list[str], folder: Path) -> None:
    """`mlflow models serve` answers every form of its protocol alike, in valid JSON, and reads no paths."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    environment = os.environ | {"MLFLOW_TRACKING_URI": store}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with (folder / "serve.log").open("wb") as log:
        # In a session of its own: the command starts uvicorn, which must end with it.
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server)
        images = [*(base64.b64encode(file).decode() for file in files), None, str(folder / "0.png")]
        for request in (
            {"dataframe_split": {"columns": ["image"], "data": [[image] for image in images]}},
            {"dataframe_records": [{"image": image} for image in images]},
            {"instances": images},
            {"instances": [{"image": image} for image in images]},
            {"inputs": images},
            {"inputs": {"image": images}},
        ):
            rows = ask(f"http://127.0.0.1:{port}/invocations", request)["predictions"]
            assert [row["label"] for row in rows] == [*labels, None, None]
            assert [row["score"] is None for row in rows] == [False] * 3 + [True] * 2
            assert rows[3]["error"].startswith("no_input")
            assert "paths and addresses are not read here" in rows[4]["error"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(f"http://127.0.0.1:{port}/invocations", {"inputs": [1, 2]})
        assert refused.value.code == 400
        assert "an image must be" in refused.value.read().decode()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError("the server did not start")


def ask(address: str, request: dict[str, Any]) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    body = urllib.request.Request(address, json.dumps(request).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(body, timeout=60) as answer:
        return json.loads(answer.read(), parse_constant=refuse)


def test_requirements_are_pinned_without_local_parts():
    lines = requirements("near")
    assert all("==" in line and "+" not in line for line in lines)
    assert any(line.startswith("open_clip_torch==") for line in lines)
    assert requirements("head") == lines  # its encoder may be CLIP
    assert not any(line.startswith("open_clip_torch") for line in requirements("student"))


def test_the_example_is_a_readable_image():
    from cluster.pyfunc import example

    assert Image.open(io.BytesIO(example()["image"][0])).size == (8, 8)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelFolderError, match=r"has no model\.json"):
        log_classifier(tmp_path, "makd")
