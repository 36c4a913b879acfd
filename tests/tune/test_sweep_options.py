import pytest

from fgvr.config import load_config
from pipelines.command import PRESETS
from tune.sweep import Options, main, parse


def test_the_sweep_s_flags_are_taken_out_and_the_rest_is_config():
    argv = ["--near.lr", "0.5", "--stage", "near", "--config", "demo", "--trials=3", "--near.k=x", "--seed", "-4"]
    options, rest = parse(argv)
    assert options == Options("near", trials=3, max_concurrent=None, seed=-4)
    assert rest == ["--near.lr", "0.5", "--config", "demo", "--near.k=x"]


def test_the_rest_may_hold_any_flag_of_the_config():
    _, rest = parse(["--stage", "makd", "--run.name", "birds", "--makd.lr", "0.2", "--label.prompt", "What is it?"])
    config = load_config(rest, PRESETS)
    assert (config.run.name, config.makd.lr, config.label.prompt) == ("birds", 0.2, "What is it?")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--stage"),
        (["--stage", "label"], "invalid choice: 'label'"),
        (["--stage", "near", "--trials", "0"], "at least 1"),
        (["--stage", "near", "--max-concurrent", "two"], "invalid"),
    ],
)
def test_wrong_flags_are_named(argv, message, capsys):
    with pytest.raises(SystemExit) as left:
        parse(argv)
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_help_lists_the_sweep_s_flags_and_the_config_s(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for flag in (
        "--stage",
        "--trials",
        "--max-concurrent",
        "--seed",
        "--near.lr",
        "--candidates.k",
        "--makd.questions",
    ):
        assert flag in shown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stage", "near", "--near.leraning_rate", "1"], "near.leraning_rate: there is no such field"),
        (["--stage", "makd", "--makd.validation_share", "0"], "makd.validation_share = 0"),
        (["--stage", "near", "--ingest.source.kind", "folder", "--ingest.source.path", "/no/such"], "there is nothing"),
        (["--stage", "makd", "--questions.file", "/no/such.txt"], "questions.file"),
    ],
)
def test_a_wrong_config_stops_before_ray_starts(argv, message, capsys):
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 2
    assert message in capsys.readouterr().err
