import io
import json
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image

from cluster.pyfunc import log_classifier, requirements
from fgvr.classifier import ModelFolderError, load_classifier
from fgvr.students.architecture import StudentSpec, build_student, timm_preprocess
from fgvr.students.folder import save_student

FRESH = """
import json, sys
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
files = [open(path, "rb").read() for path in sys.argv[3:]]
answers = [model.predict(pandas.DataFrame({"image": files})), model.predict([{"image": file} for file in files])]
import fgvr
print(json.dumps([fgvr.__file__, *[answer.to_dict("list") for answer in answers]]))
"""


def student(folder: Path) -> Path:
    spec = StudentSpec("test_byobnet", ("Rötel", "b", "c"), ("Is it red?",), timm_preprocess("test_byobnet", 32))
    torch.manual_seed(0)
    save_student(folder, spec, build_student(spec).state_dict(), {})
    return folder


def near(folder: Path) -> Path:
    from fgvr.clip.classifier import NearModel, zero_shot_classes
    from fgvr.clip.model import load_clip
    from fgvr.clip.source import find_clip
    from fgvr.config.models import Clip

    clip = load_clip(Clip(), "cpu")
    names = ["Crested Azure Finch", "Masked Olive Wren"]
    NearModel(zero_shot_classes(clip, names, "{}"), torch.zeros(1, 1), find_clip(Clip())).save(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("build", [student, near])
def test_a_fresh_process_classifies_image_bytes_as_the_model_itself(tmp_path, build):
    folder = build(tmp_path / "model")
    store = f"sqlite:///{tmp_path}/mlflow.db"
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
    source, frame, rows = json.loads(done.stdout.splitlines()[-1])
    assert Path(source).is_relative_to(tmp_path / "artifacts")
    assert frame == rows or str(frame) == str(rows)  # nan is not equal to itself
    classifier = load_classifier(folder)
    scores = classifier.scores(images)
    assert frame["label"][:3] == [classifier.labels[best] for best in scores.argmax(1)]
    assert frame["score"][:3] == pytest.approx(scores.max(1), abs=1e-5)
    assert frame["label"][3] is None
    assert np.isnan(frame["score"][3])


def test_requirements_are_pinned_without_local_parts():
    lines = requirements("near")
    assert all("==" in line and "+" not in line for line in lines)
    assert any(line.startswith("open_clip_torch==") for line in lines)
    assert not any(line.startswith("open_clip_torch") for line in requirements("student"))


def test_the_example_is_a_readable_image():
    from cluster.pyfunc import example

    assert Image.open(io.BytesIO(example()["image"][0])).size == (8, 8)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelFolderError, match=r"has no model\.json"):
        log_classifier(tmp_path, "makd")
