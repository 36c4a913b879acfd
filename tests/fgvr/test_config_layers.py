"""Nothing that was given is dropped in silence: it is used, or refused in words."""

import itertools
from pathlib import Path

import pytest
import yaml

from fgvr.config import Clip, Config, ConfigError, build, load_config, to_yaml
from fgvr.config.idle import IDLE
from fgvr.config.tree import known_leaves, merge

PRESETS = Path(__file__).parents[2] / "pipelines" / "configs"


def load(*argv: str) -> Config:
    return load_config(argv, PRESETS)


def test_a_kind_holds_for_the_flags_beside_it_wherever_it_stands() -> None:
    given = [("--mllm.kind", "openai"), ("--mllm.model", "X"), ("--mllm.timeout_seconds", "9")]
    for order in itertools.permutations(given):
        mllm = load(*itertools.chain(*order)).mllm
        assert (mllm.kind, mllm.model, mllm.timeout_seconds) == ("openai", "X", 9)


def test_the_default_s_own_kind_drops_nothing(tmp_path: Path) -> None:
    """`demo.yaml` does not say mllm.kind; naming the kind that it has anyway changed the model to the tiny one."""
    for order in (["--mllm.model", "X", "--mllm.kind", "vllm"], ["--mllm.kind", "vllm", "--mllm.model", "X"]):
        assert load(*order).mllm.model == "X"
    (tmp_path / "mine.yaml").write_text("mllm: {model: X}\nquestions: {llm: {model: Y}}\n")
    config = load("--config", str(tmp_path / "mine.yaml"), "--mllm.kind", "vllm", "--questions.llm.kind", "vllm")
    assert (config.mllm.model, config.questions.llm.model) == ("X", "Y")
    # A file's union without a default of its own says its kind, or a flag does.
    with pytest.raises(ConfigError, match=r"questions\.llm\.kind: required"):
        load("--config", str(tmp_path / "mine.yaml"))


def test_flags_of_a_kind_that_another_flag_replaces_are_refused() -> None:
    for order in (
        ["--mllm.timeout_seconds", "9", "--mllm.kind", "vllm"],
        ["--mllm.kind", "vllm", "--mllm.timeout_seconds", "9"],
    ):
        with pytest.raises(ConfigError, match=r"mllm\.timeout_seconds: only with mllm\.kind 'openai'"):
            load(*order)
    with pytest.raises(ConfigError, match=r"split_column: only with"):
        load("--ingest.source.split_column", "s", "--ingest.source.kind", "folder", "--ingest.source.path", "/p")


def test_a_part_and_a_field_of_it_on_one_line() -> None:
    config = load("--label.workers", "{num_cpus: 2}", "--label.workers.max_workers", "3")
    assert (config.label.workers.num_cpus, config.label.workers.max_workers) == (2, 3)
    for argv in (
        ["--questions.llm", "null", "--questions.llm.model", "x"],
        ["--questions.llm.model", "x", "--questions.llm", "null"],
    ):
        with pytest.raises(ConfigError, match=r"--questions\.llm = None, and flags for fields below it: give one"):
            load(*argv)


def test_a_flag_given_twice_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert load("--near.epochs", "9", "--near.epochs=11").near.epochs == 11
    assert caplog.messages == ["--near.epochs is given twice: 9 is dropped, the last one, 11, holds"]
    caplog.clear()
    load("--near.epochs", "9", "--near.epochs", "9")
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        # What an empty variable of the shell leaves; for these fields null would mean all.
        (["--label.images.max_images", ""], r"--label\.images\.max_images: '' says nothing; write null for none"),
        (["--aspects.max_images", " # 500"], r"--aspects\.max_images: ' # 500' says nothing"),
        (["--near.lr", ""], r"--near\.lr: '' says nothing"),
        (["--embed.splits", ""], r"--embed\.splits: '' says nothing; write null"),
        (["--infer.split", ""], r"infer\.split = '': is empty; write null for none"),
        (["--run.folder", " "], r"run\.folder = ' ': is empty$"),
        (["--label.aliases", ""], r"label\.aliases = '': is empty; write null"),
        (["--ingest.source.kind", "folder", "--ingest.source.path", ""], r"ingest\.source\.path = '': is empty"),
        # A value twice within a flag.
        (["--label.workers", "{num_cpus: 1, num_cpus: 2}"], r"--label\.workers: line 1: num_cpus stands there twice"),
        (["--mllm.engine_args", '{"a": 1, "a": 2}'], r"--mllm\.engine_args: line 1: a stands there twice"),
        # Words where numbers are meant would be 1 and 0.
        (["--near.epochs", "yes"], r"near: epochs = True: should be a number"),
        (["--label.images.max_images", "true"], r"label\.images: max_images = True: should be a number"),
        (["--run.folder", "$NO_SUCH_PLACE/runs"], r"--run\.folder: .*no environment variable NO_SUCH_PLACE"),
        (["--run.folder", "${EMPTY_PLACE}/runs"], r"--run\.folder: .*variable EMPTY_PLACE is empty"),
    ],
)
def test_a_flag_that_says_nothing_or_two_things(argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY_PLACE", "")
    with pytest.raises(ConfigError, match=message):
        load(*argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label:\n  images:\n    max_images:\n", r"line 3: max_images has no value; give it one, null for none"),
        (
            "ingest:\n  source:\n    kind: table\n    path: l.csv\n    class_column: # label\n",
            r"line 5: class_column has no",
        ),
        ("near:\n  # lr: 1\nrun: {}\n", "line 1: near has no value"),
        ("near:\n  epochs: 020\n", "line 2: 020 is another number to YAML"),
        ("near: {epochs: 1:30}\n", "line 1: 1:30 is another number to YAML"),
        ("embed: {splits: [007, test]}\n", "line 1: 007 is another number .* in quotes"),
        ("label: {images: {max_images: }}\n", "line 1: max_images has no value"),
        ('label: {images: {"max_images": 1, max_images: 2}}\n', "line 1: max_images stands there twice"),
        ('{"near": {"lr": 1, "lr": 1}}', "line 1: lr stands there twice"),
        ("mllm:\n  engine_args:\n    a: {b: 1,\n      b: 2}\n", r"line 4: b stands there twice \(line 3, too\)"),
        ("embed: {splits: train}\n", r"embed\.splits = 'train': should be a valid tuple"),
        ("near: null\n", r"near = None: this part has fields of its own"),
        ("label: {workers: null}\n", r"label\.workers = None: this part has fields of its own"),
        ("mllm: null\n", r"mllm = None: "),
        ("near: {epochs: on}\n", r"near: epochs = True: should be a number"),
        ("run: {folder: $EMPTY_PLACE/runs}\n", "the environment variable EMPTY_PLACE is empty"),
        ("ingest: {source: {kind: folder, path: p, class_column: c}}\n", r"class_column: only with .*'table'"),
    ],
)
def test_a_file_that_says_nothing_or_two_things(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMPTY_PLACE", "")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load("--config", str(tmp_path / "mine.yaml"))


def test_null_is_said_and_words_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOTOS", "/data/photos")
    assert load("--label.images.max_images", "null").label.images.max_images is None
    assert load("--infer.split", "null").infer.split is None
    # Splits and endings are texts, whatever YAML makes of them.
    assert load("--embed.splits", "2026").embed.splits == ("2026",)
    assert load("--embed.splits", "no").embed.splits == ("no",)
    assert load("--embed.splits", "null").embed.splits is None
    assert load("--evaluate.methods", "[near, makd]").evaluate.methods == ("near", "makd")
    # A flag's variable that the shell has not replaced (an entrypoint without one) is one as in a file.
    source = load("--ingest.source.kind", "folder", "--ingest.source.path", "$PHOTOS/birds").ingest.source
    assert source.path == "/data/photos/birds"
    assert load("--label.prompt", "$5/kg?").label.prompt == "$5/kg?"
    assert load("--label.prompt", "Which {thing} is this?").label.prompt == "Which {thing} is this?"
    assert build({"aspects": {"instruction": ""}}).aspects.instruction == ""


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        # A preset's choice counts instead, which the person who types the flag does not see.
        (
            ["--config", "cub", "--label.images.max_images", "500"],
            "--label.images.max_images has no effect: label.images.per_class = 3 counts; set it to null where null is "
            "meant",
        ),
        (["--label.images", "{max_images: 500, per_class: null}"], None),
        (["--makd.milestones", "[3]"], "--makd.milestones has no effect: makd.schedule = cosine counts; set it to "),
        (["--makd.milestones", "[3]", "--makd.schedule", "milestones"], None),
        (["--near.gce_q", "0.5"], "--near.gce_q has no effect: near.loss = proden"),
        (["--label.prompt", "What?", "--label.listed", "3"], "--label.prompt has no effect: label.listed_prompt is"),
        (["--label.prompt", "What?"], None),
        (["--label.listed_prompt", "{k}?"], "--label.listed_prompt has no effect: label.prompt is asked"),
        (["--infer.cost_groups", "g.csv"], "--infer.cost_groups has no effect: infer.costs = null"),
        (["--infer.cost_groups", "g.csv", "--infer.costs", "c.csv"], None),
        (["--heads.hidden", "9"], "--heads.hidden has no effect: heads.network = cosine"),
        (["--heads.hidden", "9", "--heads.network", "mlp"], None),
        (
            ["--label.merge_model", "x"],
            "--label.merge_model has no effect: label.merge_similarity = 1 compares no mean",
        ),
        (["--label.merge_model", "x", "--label.merge_similarity", "0.9"], None),
        (["--questions.duplicate_model", "x"], "--questions.duplicate_model has no effect: questions.llm = null"),
        (
            ["--questions.generate", "9", "--questions.file", "q.txt"],
            "--questions.generate has no effect: the questions",
        ),
        (["--questions.duplicate_model", "x", "--questions.llm", "{kind: openai, model: m}"], None),
        (["--neighbours.recall", "0.5", "--neighbours.method", "exact"], "--neighbours.recall has no effect: neighb"),
        (["--neighbours.recall", "0.5"], None),
        (["--makd.pool", "5", "--makd.images", "asked"], "--makd.pool has no effect: makd.images = asked"),
        (["--makd.pool", "5"], None),
        (["--makd.randaugment_magnitude", "5"], "--makd.randaugment_magnitude has no effect: makd.randaugment = 0"),
        (["--makd.momentum", "0.5", "--makd.optimizer", "adamw"], "--makd.momentum has no effect: makd.optimizer = ad"),
        (["--candidates.seed", "5"], "--candidates.seed has no effect: candidates.method = neighbours draws nothing"),
        (["--candidates.weights", "similarity", "--candidates.method", "single"], "--candidates.weights has no effect"),
    ],
)
def test_a_flag_without_effect_is_said(argv: list[str], said: str | None, caplog: pytest.LogCaptureFixture) -> None:
    load(*argv)
    if said is None:
        assert caplog.messages == []
    else:
        (message,) = caplog.messages
        assert message.startswith(said)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        # The demo's tiny CLIP was run over real photos, and the report said "demo openai".
        (["--clip.pretrained", "openai"], r"^clip: pretrained = openai: the model demo has weights of its own; leave"),
        (["--clip.model", "/my/clip", "--clip.pretrained", "openai"], r"^clip: pretrained .* /my/clip has weights"),
        (["--clip.model", "hf-hub:a/b", "--clip.pretrained", "openai"], r"^clip: pretrained .* hf-hub:a/b has weights"),
        (
            ["--clip.model", "ViT-B-16", "--clip.pretrained", "openai", "--clip.revision", "v1"],
            r"^clip: revision = v1: ViT-B-16 is no hub model",
        ),
        (["--clip.revision", "v1"], r"^clip: revision = v1: demo is no hub model"),
        (["--mllm.revision", "v1"], r"^mllm: revision = v1: demo is no hub model, .* leave it out"),
        (["--mllm.model", "s3://bucket/m", "--mllm.revision", "v1"], r"^mllm: revision = v1: s3://bucket/m is no hub"),
        (
            ["--questions.llm", "{kind: vllm, model: /m, revision: v1}"],
            r"^questions\.llm: revision = v1: /m is no hub model",
        ),
        (["--infer.model", "/m", "--infer.trained", "near"], r"^infer: trained = near: model = /m classifies, .* makd"),
        (
            ["--ingest.source", "{kind: webdataset, path: /t, class_key: species}"],
            r"^ingest\.source: class_key = species: class_from = none reads no JSON",
        ),
        (
            ["--ingest.source", "{kind: webdataset, path: /t, class_from: cls, class_key: species}"],
            r"class_key = species: class_from = cls reads no JSON",
        ),
        (
            ["--ingest.source", "{kind: webdataset, path: /t, class_names: n.txt}"],
            r"class_names = n\.txt: class_from = none reads no classes; set it to cls",
        ),
        (
            ["--ingest.source", "{kind: parquet, path: /t, split_from: top, split_column: subset}"],
            r"^ingest\.source: split_from = top: split_column = subset has the splits",
        ),
    ],
)
def test_what_nothing_would_read_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(*argv)


def test_what_is_read_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load("--clip.model", "ViT-B-16", "--clip.pretrained", "openai").clip.pretrained == "openai"
    assert load("--clip.model", "hf-hub:a/b", "--clip.revision", "v1").clip.revision == "v1"
    assert load("--mllm.model", "owner/name", "--mllm.revision", "v1").mllm.revision == "v1"
    assert load("--infer.model", "/m", "--infer.trained", "makd").infer.model == "/m"
    tars = "{kind: webdataset, path: /t, class_from: json, class_key: species, class_names: n.txt}"
    assert load("--ingest.source", tars).ingest.source.class_key == "species"
    # The same name is a folder's where there is one.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"owner/name is no hub model"):
        load("--mllm.model", "owner/name", "--mllm.revision", "v1")


def test_another_model_comes_without_the_weights_of_the_one_before() -> None:
    """Those that the preset's or the file's model had; the same model's stay."""
    assert load("--config", "photos").clip == Clip(model="ViT-B-16-quickgelu", pretrained="openai")
    assert load("--config", "photos", "--clip.model", "/mine").clip == Clip(model="/mine")
    assert load("--config", "photos", "--clip.model", "ViT-B-16-quickgelu").clip.pretrained == "openai"
    below = {"model": "owner/a", "revision": "v1", "seed": 2}
    assert merge(below, {"model": "owner/b"}) == {"model": "owner/b", "seed": 2}
    assert merge(below, {"model": "owner/b", "revision": "v2"}) == {"model": "owner/b", "revision": "v2", "seed": 2}
    timm = {"kind": "timm", "model": "resnet18", "weights": "w.pth"}
    assert merge(timm, {"model": "hf-hub:a/b"}) == {"kind": "timm", "model": "hf-hub:a/b"}
    # A part that is called model names none.
    detect = {"model": {"backbone": "resnet18"}, "pretrained": True}
    assert merge(detect, {"model": {"backbone": "resnet50"}})["pretrained"] is True


def test_a_config_saved_with_fields_that_were_not_used_still_loads(tmp_path: Path) -> None:
    """`--config photos --clip.model /mine` was saved with the preset's `pretrained`, and ran without it."""
    saved = yaml.safe_load(to_yaml(load("--config", "photos", "--clip.model", "/mine")))
    saved["clip"] |= {"pretrained": "openai", "revision": "v1"}
    saved["mllm"] |= {"model": "/m", "revision": "v1"}
    saved["infer"] |= {"model": "/student", "trained": "near"}
    saved["label"]["sources"] = [{"kind": "ask", "mllm": {"kind": "vllm", "model": "/n", "revision": "v1"}}]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(saved))
    config = load("--config", str(file))
    assert (config.clip.model, config.clip.pretrained, config.clip.revision) == ("/mine", None, None)
    assert (config.mllm.model, config.mllm.revision) == ("/m", None)
    assert (config.infer.model, config.infer.trained) == ("/student", "makd")
    assert config.label.sources[0].mllm.revision is None
    # What somebody adds to it is refused as everywhere.
    with pytest.raises(ConfigError, match=r"pretrained = openai: the model /mine has weights"):
        load("--config", str(file), "--clip.pretrained", "openai")


def test_a_field_without_effect_in_somebody_s_file_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not of the presets that come with the package, nor of a saved config, and not of values that are the default."""
    (tmp_path / "mine.yaml").write_text("heads: {hidden: 9, gce_q: 0.7}\nnear: {gce_q: 0.5}\n")
    load("--config", str(tmp_path / "mine.yaml"), "--near.gce_q", "0.4")
    assert caplog.messages == [
        "heads.hidden has no effect: heads.network = cosine",
        "--near.gce_q has no effect: near.loss = proden",
    ]
    caplog.clear()
    (tmp_path / "saved.yaml").write_text(to_yaml(load("--config", "aircraft", "--makd.schedule", "cosine")))
    load("--config", str(tmp_path / "saved.yaml"), "--makd.schedule", "cosine")
    for preset in PRESETS.glob("*.yaml"):
        load("--config", preset.stem)
    assert caplog.messages == []


def test_the_fields_that_may_have_no_effect_exist() -> None:
    names = {leaf.name for leaf in known_leaves(Config)}
    assert set(IDLE) <= names


def test_a_number_that_yaml_reads_otherwise_is_refused_in_a_flag_too() -> None:
    with pytest.raises(ConfigError, match=r"--near\.epochs: .*020 is another number"):
        load("--near.epochs", "020")
    assert load("--near.epochs", "20").near.epochs == 20
    assert load("--run.name", "020").run.name == "020"
    assert load("--near.lr", "0.05").near.lr == 0.05
