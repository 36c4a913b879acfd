from pathlib import Path

import pytest

from fgvr.config import Config, ConfigError, build, load_config, to_yaml
from fgvr.config.tree import leaves

PRESETS = Path(__file__).parents[2] / "pipelines" / "configs"


def load(*argv: str) -> Config:
    return load_config(argv, PRESETS)


def test_later_layers_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("near: {epochs: 7, lr: 0.5}\ncandidates: {k: 5}\n")
    config = load("--config", str(file), "--near.epochs", "9", "--near.epochs=11")
    assert (config.near.epochs, config.near.lr, config.candidates.k) == (11, 0.5, 5)
    assert config.near.momentum == 0.9  # the default


def test_another_kind_drops_the_fields_of_the_old_one() -> None:
    # demo.yaml gives field_guide its train_per_class, which a folder does not know.
    config = load("--ingest.source.kind", "folder", "--ingest.source.path", "/photos")
    assert config.ingest.source.model_dump(include={"kind", "path"}) == {"kind": "folder", "path": "/photos"}


def test_the_default_kind_need_not_be_named() -> None:
    config = load("--mllm.model", "OpenGVLab/InternVL3_5-8B-HF")
    assert (config.mllm.kind, config.mllm.model) == ("vllm", "OpenGVLab/InternVL3_5-8B-HF")


def test_text_is_taken_as_it_stands_and_other_values_as_yaml() -> None:
    config = load("--run.name", "2026", "--label.prompt", "What: this, or [that]?", "--embed.splits", "train")
    assert (config.run.name, config.label.prompt) == ("2026", "What: this, or [that]?")
    assert config.embed.splits == ("train",)
    assert load("--embed.splits", "[train, test]").embed.splits == ("train", "test")
    assert load("--label.images.per_class", "null").label.images.per_class is None
    assert load("--tracking.uri", "null").tracking.uri is None
    assert load("--run.max-error-share=5e-1").run.max_error_share == 0.5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--near.k", "5"], r"near\.k: there is no such field; did you mean candidates\.k\?"),
        (["--label.imagess", "5"], r"label\.imagess: .*did you mean label\.images\?"),
        (["--near.epoch", "5"], r"near\.epoch: .*did you mean near\.epochs\?"),
        (["--neer.lr", "5"], r"neer: .*did you mean near\?"),
        (["--near.loss", "prodn"], r"near\.loss = 'prodn': should be 'proden', 'ce', .*'gce', .* or 'mixture'"),
        (["--near.epochs", "-1"], r"near\.epochs = -1: should be greater than or equal to 1"),
        (["--near.epochs", "many"], r"near\.epochs = 'many': should be a valid integer"),
        (["--label.samples", "3"], r"label: .*samples = 3 needs a temperature above 0.*set label\.temperature"),
        (["--near", "5"], r"near = 5: this part has fields of its own \(near\.loss"),
        (["--mllm.kind", "opnai"], r"mllm\.kind = 'opnai': should be 'vllm' or 'openai' or 'simulated'"),
        (["--mllm.modle", "x"], r"mllm\.modle: .*did you mean mllm\.model\?"),
        (["--mllm.timeout_seconds", "9"], r"mllm\.timeout_seconds: only with mllm\.kind 'openai'$"),
        (
            ["--makd.distillation.teacher", "x"],
            r"teacher: only with makd\.distillation\.kind 'kd' or 'dkd'",
        ),
        (["--makd.distillation.kind", "kd"], r"makd\.distillation\.teacher: required"),
        (["--mllm.kind", "openai"], r"mllm\.model: required"),
        (["--questions.llm.model", "x"], r"questions\.llm\.kind: required, 'vllm' or 'openai'"),
        (["--run.name", "../up"], r"run\.name = '\.\./up': should match pattern .*: letters, digits, dots, dashes and"),
        # What is filled in needs its place, and what is said to a model must say something.
        (["--clip.template", "an image"], r"clip\.template = 'an image': has no place for the name: all names would"),
        (["--clip.template", "one {class_name}"], r"clip\.template = .*written \{\} and not \{class_name\}"),
        (["--clip.template", "{}, a {kind}"], r"clip\.template = .*: has braces that are not filled in: only \{\}"),
        (["--baselines.prototypes.template", "x"], r"baselines\.prototypes\.template = 'x': has no place"),
        (["--label.prompt", "  "], r"label\.prompt = '  ': is empty"),
        (["--label.listed_prompt", "Name {n} birds."], r"label\.listed_prompt = .*has no \{k\}.*label\.listed"),
        (["--baselines.findr.prompt", "A {categry}?"], r"baselines\.findr\.prompt = .*\{categry\}, which is not"),
        (["--near.context_init", "a photo of a {}"], r"near\.context_init = .*near\.name_position"),
        (["--questions.subject", " "], r"questions\.subject = ' ': is empty"),
        (["--aspects.words", "['Ja', 'Ja ']"], r"aspects: words = \['Ja', 'Ja '\]: .* two different words"),
        # A field called like a kind of something else keeps its whole name.
        (["--clip.model", "{}", "--clip.modle", "x"], r"^clip\.modle: "),
        (["--config", "nope"], r"--config nope: no such file, and no such preset \(there are: .*demo"),
        (["--config", "demo", "--config", "photos"], r"--config demo and --config photos: give one"),
        (["--label.temperature", ".inf"], r"label\.temperature = inf: should be a finite number"),
        (["--mllm.kind", "openai", "--mllm.model", ""], r"mllm\.model = '': should have at least 1 character"),
        (["near.lr", "5"], r"'near\.lr': expected --field\.name VALUE"),
        (["--near.lr"], r"--near\.lr: a value is missing$"),
        (["--near.lr", "--near.epochs", "5"], r"--near\.lr: a value is missing before --near\.epochs$"),
        (["--run.retry-failed"], r"--run\.retry-failed: a value is missing \(true or false\)"),
        (["run.name=x"], r"'run\.name=x': expected --field\.name VALUE \(see --help\); did you mean --run\.name=x\?"),
        (["--config", "photo"], r"no such preset .*; did you mean photos\?$"),
        (["--plam", "x"], r"plam: there is no such field; did you mean plan\?"),
        (["--mllm", "openai"], r"mllm = 'openai': .*did you mean mllm\.kind = 'openai'\?"),
        (["--clip", "ViT"], r"clip = 'ViT': .*--help clip lists them"),
        (["--near.lr", "0,01"], r"near\.lr = '0,01': should be a valid number, with a point and not a comma$"),
        (["--makd.base", "ja"], r"makd\.base = 'ja': should be a valid boolean, true or false$"),
        (["--makd.milestones", "1,2"], r"milestones\.0 = '1,2': .*several values are a list: \[1, 2\]$"),
        (["--aspects.words", "Yes"], r"aspects\.words: has too few values$"),
        (["--makd.backbone_args", "drop"], r"backbone_args = 'drop': .*a mapping such as \{name: value\}$"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(*argv)


def test_prompts_may_hold_braces_of_their_own() -> None:
    asked = 'Answer with {"name": "..."}, at most {k} of them.'
    config = load("--label.listed_prompt", asked, "--label.prompt", "As {name}: {}?", "--clip.template", "{}; {}")
    assert (config.label.listed_prompt, config.label.prompt) == (asked, "As {name}: {}?")
    assert config.clip.template == "{}; {}"
    assert build({"near": {"context_init": "a photo of a"}}).near.context_init == "a photo of a"


@pytest.mark.parametrize("part", [{"near": {"context_init": ""}}, {"class_scores": {"prompt": "\t"}}])
def test_an_optional_text_is_null_or_says_something(part: dict[str, dict[str, str]]) -> None:
    with pytest.raises(ConfigError, match=r"^(near\.context_init|class_scores\.prompt) = .*: is empty"):
        build(part)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build({"near": {"lr": -1}, "label": {"max_tokens": 0}})
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == ["label.max_tokens", "near.lr"]


@pytest.mark.parametrize("content", [b"- a\n- list\n", b"near: [", b"\xff\xfe"])
def test_a_file_that_is_no_config_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"--config .*bad\.yaml: (expected fields|not a YAML file)"):
        load("--config", str(tmp_path / "bad.yaml"))


def test_the_written_config_is_read_back_as_the_same(tmp_path: Path) -> None:
    config = load("--near.lr", "0.25", "--ingest.source.kind", "folder", "--ingest.source.path", "/photos")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load("--config", str(tmp_path / "config.yaml")) == config


def test_a_default_in_the_help_is_the_one_that_the_config_has() -> None:
    """Parts share types but not sizes: label's 256 rows a part, embed's 4,096."""
    shown = {leaf.name: leaf.default for leaf in leaves(Config) if leaf.name.endswith(".rows_per_part")}
    config = Config()
    for name in ("label", "aspects", "embed", "infer"):
        assert shown[f"{name}.workers.rows_per_part"] == getattr(config, name).workers.rows_per_part
    assert shown["label.workers.rows_per_part"] != shown["embed.workers.rows_per_part"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "run:\n  name: a\nnear:\n  lr: 1\nrun:\n  seed: 1\n",
            r"mine\.yaml: line 5: run stands there twice \(line 1, too\)",
        ),
        ("near:\n  lr: 1\n  epochs: 2\n  lr: 2\n", "line 4: lr stands there twice"),
        ("near: {lr: 1, lr: 1}\n", "line 1: lr stands there twice"),
        ("near:\n\tlr: 1\n", "not a YAML file: line 2, .*not with tabs$"),
        ("near:\n   lr: 1\n  epochs: 2\n", "not a YAML file: line 3, .*begin in the same column$"),
        ("near: {}\n---\nrun: {}\n", "not a YAML file: line 2, "),
        ("", "expected fields .*found nothing"),
        ("# near:\n", "expected fields .*found nothing"),
        ("near\n", "expected fields .*found a str"),
        ("near: &a\n  b: *a\n", "an anchor .* holds itself"),
        (
            "run:\n  folder: $NO_SUCH_PLACE/runs\n",
            r"\$NO_SUCH_PLACE/runs: there is no environment variable NO_SUCH_PLACE",
        ),
        ("near.lr: 1\n", r"near\.lr: a preset has parts: write lr below near:$"),
        ("near: 2024-13-01\n", "not a YAML file: month must be"),
    ],
)
def test_a_file_that_could_be_read_in_two_ways_or_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load("--config", str(tmp_path / "mine.yaml"))


def test_anchors_merges_variables_and_marks_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOTOS", "/data/photos")
    text = """
label: {workers: &workers {num_cpus: 2, rows_per_part: 8}}
embed:
  workers: {<<: *workers, rows_per_part: 16}
infer:
  workers: *workers
ingest:
  source: {kind: folder, path: "${PHOTOS}/birds"}
run: {folder: $PHOTOS}
"""
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "mine.yaml").write_bytes(text.encode(encoding))
        config = load("--config", str(tmp_path / "mine.yaml"))
        assert (config.embed.workers.num_cpus, config.embed.workers.rows_per_part) == (2, 16)
        assert config.infer.workers == config.label.workers
        assert (config.ingest.source.path, config.run.folder) == ("/data/photos/birds", "/data/photos")


def test_columns_of_a_table_that_nobody_named_stay_so(tmp_path: Path) -> None:
    """A column that is named must be there, one of the default's name need not."""
    config = load(
        "--ingest.source.kind", "table", "--ingest.source.path", "l.csv", "--ingest.source.class_column", "label"
    )
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    again = load("--config", str(tmp_path / "config.yaml"))
    assert again == config
    assert again.ingest.source.model_fields_set & {"split_column", "class_column", "uri_column"} >= {"class_column"}
    assert "split_column" not in again.ingest.source.model_fields_set


def test_a_choice_that_is_a_word_of_yaml() -> None:
    assert load("--makd.target", "true").makd.target == "true"


@pytest.mark.parametrize(
    "flags",
    [
        ("--ingest.limits.web.total_seconds", "1800"),
        ("--ingest.limits.web.total_seconds", "120", "--cluster.limits.silent_minutes", "2"),
        ("--mllm.kind", "openai", "--mllm.model", "m", "--mllm.timeout_seconds", "2000"),
        ("--questions.llm.kind", "openai", "--questions.llm.model", "m", "--questions.llm.timeout_seconds", "1800"),
    ],
)
def test_one_wait_that_would_be_taken_for_a_hang_is_refused(flags: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"_seconds = \d+: one such wait is as long as .*cluster.limits.silent_min"):
        load(*flags)


def test_a_short_silence_alone_and_what_it_saves_are_taken(tmp_path: Path) -> None:
    # Readers wait for half of it at most, whatever the default says (fgvr.liveness.longest_wait).
    config = load("--cluster.limits.silent_minutes", "0.25")
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(config))
    assert load("--config", str(saved)) == config
    load("--ingest.limits.web.total_seconds", "600")
