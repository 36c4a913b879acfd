"""What a trial of makd trains, on examples made by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fgvr.config import Config, ConfigError, build
from fgvr.models.student import Preprocess, StudentSpec, build_student, save_student
from fgvr.training.assemble import TrainingSet
from fgvr.training.examples import Examples
from fgvr.training.student import train_student
from fgvr.training.targets import ClassTargets
from tune.makd_sweep import EXAMPLES_FILE, MakdSweep, check
from tune.spaces import with_values


def small_sweep(config: Config) -> MakdSweep:
    questions = tuple(f"Is it {n}?" for n in range(12))
    spec = StudentSpec(
        "test_byobnet",
        ("a", "b"),
        questions,
        Preprocess(input_size=32, resize=32, stored_side=48, mean=(0.0,) * 3, std=(1.0,) * 3),
        {"drop_rate": 0.1},
    )
    examples = Examples(
        image_ids=np.arange(4),
        uris=["w", "x", "y", "z"],
        classes=np.array([0, 1, 0, 1]),
        p_yes=np.full((4, 12), 0.5, np.float32),
        held_out=np.array([True, False, False, False]),
        identity="v1",
    )
    targets = ClassTargets(examples.classes, spec.labels, "true")
    return MakdSweep(config, spec, TrainingSet(examples, targets, examples.image_ids), ())


def test_a_trial_learns_the_first_questions(tmp_path):
    folder = str(tmp_path)
    found = small_sweep(Config()).prepare(folder)
    assert found.examples is None  # does not travel to the trials
    config = with_values(Config(), {"makd.lr": 0.03, "makd.alpha": 7.5, "makd.questions": 10})
    training = found.training(config, folder, f"{folder}/trial")
    assert training.loop is train_student
    job = training.job
    assert job.spec.questions == tuple(f"Is it {n}?" for n in range(10))
    assert (job.spec.labels, job.spec.backbone_args) == (("a", "b"), {"drop_rate": 0.1})
    assert (job.settings.lr, job.settings.alpha) == (0.03, 7.5)
    examples = Examples.read(job.examples)
    assert job.examples == f"{folder}/{EXAMPLES_FILE}"
    assert examples.p_yes.shape == (4, 12)
    assert examples.held_out.tolist() == [True, False, False, False]
    assert job.all_asked
    some = replace(small_sweep(Config()), all_asked=False).prepare(folder)
    assert not some.training(config, folder, f"{folder}/trial").job.all_asked  # the stage's own aspect loss


def test_all_questions_are_the_largest_choice():
    assert list(small_sweep(Config()).space()["makd.questions"].categories) == [10, 12]


def test_swept_fields_do_not_name_the_sweep():
    found = small_sweep(Config())
    assert {"backbone", "epochs", "validation_share"} <= set(found.decides["recipe"])
    assert not {"lr", "alpha", "questions", "workers", "base"} & set(found.decides["recipe"])


@pytest.mark.parametrize(
    ("values", "message"),
    [({"alpha": 0}, r"makd\.alpha = 0"), ({"validation_share": 0}, r"makd\.validation_share = 0")],
)
def test_what_cannot_be_swept_is_refused_at_once(values, message):
    with pytest.raises(ConfigError, match=message):
        check(build({"makd": values}))


def test_all_trials_start_from_the_same_weights_with_classifiers_of_their_own(tmp_path):
    sweep = small_sweep(Config())
    torch.manual_seed(4)
    weights = build_student(sweep.spec).state_dict()
    save_student(tmp_path / "earlier", sweep.spec, weights, {})  # of the very same outputs
    config = build({"makd": {"backbone": "test_byobnet", "weights": str(tmp_path / "earlier")}})
    folder = str(tmp_path)
    trial = replace(sweep, config=config).prepare(folder).training(config, folder, f"{folder}/trial")
    start = load_file(trial.job.start)
    assert weights.keys() - start.keys() == {"head.fc.weight", "head.fc.bias"}
    assert all(torch.equal(value, weights[name]) for name, value in start.items())
    assert sweep.training(Config(), folder, folder).job.start is None


def test_all_trials_have_the_same_teacher(tmp_path):
    class Copied:
        """In place of a teacher: notes for whom it was put where."""

        def put(self, folder, image_ids):
            (tmp_path / "put.txt").write_text(f"{folder} {image_ids.tolist()}")

    folder = str(tmp_path)
    taught = replace(small_sweep(Config()), teacher=Copied())
    trial = taught.prepare(folder).training(Config(), folder, f"{folder}/trial")
    assert (tmp_path / "put.txt").read_text() == f"{folder}/teacher [0, 1, 2, 3]"
    assert trial.job.teacher == f"{folder}/teacher"
    assert small_sweep(Config()).training(Config(), folder, folder).job.teacher is None
