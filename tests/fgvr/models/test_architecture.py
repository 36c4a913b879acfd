import pytest
import torch

from fgvr.models.student import StudentSpec, build_student, check_backbone, timm_preprocess

QUESTIONS = ("Is it red?", "Is it long?")


def spec(backbone="test_resnet", size=32, **more) -> StudentSpec:
    values = {"labels": ("a", "b", "c"), "questions": QUESTIONS, "preprocess": timm_preprocess("test_resnet", size)}
    return StudentSpec(backbone, **{**values, **more})


@pytest.mark.parametrize(
    "backbone", ["test_byobnet", "test_vit", "mobilenetv1_100", "efficientnet_b0", "resnet18", "resnet34"]
)
def test_any_timm_model_gets_class_and_aspect_outputs(backbone):
    built = spec(backbone, preprocess=timm_preprocess(backbone, 32))
    model = build_student(built)
    outputs = model(torch.randn(2, 3, 32, 32))
    classes, aspects = built.split(outputs)
    assert classes.shape == (2, 3)
    assert aspects.shape == (2, 2)


def test_prediction_ignores_the_aspect_outputs():
    outputs = torch.tensor([[0.1, 0.3, 0.2, 9.0, 8.0], [1.0, 0.0, 0.0, 0.0, 5.0]])
    assert spec().predicted(outputs).tolist() == [1, 0]


def test_without_questions_there_are_class_outputs_only():
    base = spec(questions=())
    assert build_student(base)(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    assert base.split(torch.zeros(4, 3))[1].shape == (4, 0)


def test_the_same_seed_gives_the_same_weights():
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build_student(spec()).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet19", "resnet18"), ("hf-hub:timm/resnet18", "no such model"), ("zzz", "list_models")]
)
def test_unknown_names_are_refused_with_near_matches(name, hint):
    with pytest.raises(ValueError, match=r"makd\.backbone.*" + hint):
        check_backbone(name)


def test_what_timm_refuses_names_backbone_and_arguments():
    with pytest.raises(ValueError, match=r"resnet18.*32 px.*no_such_argument"):
        build_student(spec("resnet18", backbone_args={"no_such_argument": 1}))
    with pytest.raises(ValueError, match="at least one class"):
        build_student(spec(labels=()))


def test_preprocess_states_timms_mean_and_the_sizes():
    preprocess = timm_preprocess("resnet18", 224, 256)
    assert (preprocess.input_size, preprocess.resize, preprocess.stored_side) == (224, 256, 384)
    assert preprocess.mean == (0.485, 0.456, 0.406)
    assert timm_preprocess("mobilenetv1_100", 224).std == (0.5, 0.5, 0.5)
