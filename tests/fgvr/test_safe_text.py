"""Secrets and terminal commands in text: forms as the tools that make them write them."""

import json

import pytest

from fgvr.config import Config, ConfigError, build, to_yaml
from fgvr.errors import UserError
from fgvr.redact import keep_secret, masked, masked_tree, printable, safe
from fgvr.schemas import Failure, Reason

SIGNED = (
    "https://b.s3.amazonaws.com/a.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAX%2F20260101&"
    "X-Amz-Security-Token=IQoJb3&X-Amz-Signature=deadbeef&part=2"
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("part", ["a-", "a", "a.", "-", "a://b:", "a://"])
def test_long_texts_of_strangers_come_back(part: str) -> None:
    """Patterns that start over at each of 200,000 places would take hours."""
    text = part * (200_000 // len(part))
    assert masked(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pass@host:5000/x", "http://***@host:5000/x"),
        ("postgresql+psycopg2://me:p@ss/w0rd@db/mlflow", "postgresql+psycopg2://***@db/mlflow"),
        ("see https://ghp-like-token@github.com/a/b.git now", "see https://***@github.com/a/b.git now"),
        ("s3://AKIAIOSFODNN7EXAMPLE:wJalr/XUtn+K7@bucket/key", "s3://***@bucket/key"),
        ("https://a.blob.core.windows.net/c/a.jpg?sv=2024&sig=Zm9v%3D", None),
        ("https://x.cloudfront.net/a.jpg?Policy=eyJ&Signature=abc&Key-Pair-Id=K1", None),
        ("https://api.example/v1?key=4fTq81Zx0PwL&q=1", "https://api.example/v1?key=***&q=1"),
        ("Incorrect API key provided: sk-proj-aB3dE5gh1jK7mN.", "Incorrect API key provided: ***."),
        ("{'Authorization': 'Bearer abcdef012345'}", "{'Authorization': 'Bearer ***'}"),
        ("storage_options={'key': 'k', 'secret': 'shhh'}", "storage_options={'key': 'k', 'secret': '***'}"),
        ("--mllm.engine_args={hf_token: abc, seed: 1}", "--mllm.engine_args={hf_token: ***, seed: 1}"),
        ("aws_secret_access_key=abc/def region=eu", "aws_secret_access_key=*** region=eu"),
        ("AccountName=a;AccountKey=abc+d==;Suffix=x", "AccountName=a;AccountKey=***"),
        ("X-Api-Key: abc", "X-Api-Key: ***"),
        ("the password: hunter2 is wrong", "the password: *** is wrong"),
    ],
)
def test_what_is_secret_is_masked(text: str, shown: str | None) -> None:
    found = masked(text)
    if shown is not None:
        assert found == shown
    for secret in ("Zm9v", "eyJ&", "=abc", "K1", "pass@", "p@ss", "w0rd", "AIza", "shhh", "abcdef"):
        assert secret not in found
    assert masked(found) == found


def test_a_signed_url_keeps_what_tells_which_file_it_is() -> None:
    found = masked(SIGNED)
    assert found.startswith("https://b.s3.amazonaws.com/a.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256&")
    assert found.endswith("&part=2")
    assert not any(secret in found for secret in ("AKIAX", "IQoJ", "deadbeef"))


@pytest.mark.parametrize(
    "text",
    [
        "runs/demo/tables/labels/0011223344556677",
        "http://127.0.0.1:8000/v1 and me@example.org",
        "http://host:8080/path@v2/a.jpg",
        "/photos/user:pass@home/a.jpg",
        "the key in OPENAI_API_KEY is not accepted (mllm.api_key_env)",
        "mllm.api_key: there is no such field",
        "labels: 3 rows, prompt_tokens: 12, context_tokens=4, --near.k 5",
        "{prompt_tokens: 12, max_tokens: 3}",
        "Great Black-backed Gull, 97.5%",
        "s3://bucket/photos/a b.jpg?versionId=3",
    ],
)
def test_what_is_not_secret_stays(text: str) -> None:
    assert safe(text) == text


def test_values_of_secret_variables_and_of_given_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "tok-0123456789")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")  # too short to be one; a word of other texts
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/me/.ray/auth_token")
    keep_secret("an-unusual-one")
    text = "tok-0123456789 testing /home/me/.ray/auth_token an-unusual-one"
    assert masked(text) == "*** testing /home/me/.ray/auth_token ***"


def test_a_config_shows_its_secrets_nowhere() -> None:
    config = build(
        {
            "tracking": {"uri": "http://me:hunter2@mlflow:5000"},
            "mllm": {"kind": "vllm", "engine_args": {"hf_token": "hunter2", "seed": 3}},
            "questions": {"llm": {"kind": "openai", "model": "m", "base_url": "https://k:hunter2@host/v1"}},
            "ingest": {"source": {"kind": "table", "path": "https://host/a.csv?X-Amz-Signature=hunter2"}},
        }
    )
    assert config.tracking.uri == "http://me:hunter2@mlflow:5000"  # the program itself still has it
    for shown in (to_yaml(config), repr(config), str(config.tracking), repr([config.mllm])):
        assert "hunter2" not in shown
    assert "http://***@mlflow:5000" in to_yaml(config)


def test_a_saved_config_asks_for_the_secrets_that_it_lost() -> None:
    with pytest.raises(ConfigError, match=r"^tracking\.uri, ingest\.source\.path: \*\*\* stands for a secret"):
        build(
            {
                "tracking": {"uri": "http://***@mlflow:5000"},
                "ingest": {"source": {"kind": "table", "path": "https://host/a.csv?X-Amz-Signature=***"}},
            }
        )


def test_a_config_without_secrets_is_saved_as_it_is() -> None:
    values = Config().model_dump(mode="json")
    assert masked_tree(values) == values
    assert masked_tree({"n": 3, "none": None, "password": "", "token": "x"}) == {
        "n": 3,
        "none": None,
        "password": "",
        "token": "***",
    }


def test_errors_and_failed_rows_show_none() -> None:
    error = UserError(f"cannot read {SIGNED}")
    assert "deadbeef" not in f"{error}"
    assert "part=2" in f"{error}"
    row = Failure(Reason.NOT_FOUND, SIGNED).as_row()
    assert "deadbeef" not in json.dumps(row)
    assert len(Failure(Reason.CORRUPT, "x" * 10_000).as_row()["detail"]) == 500


def test_what_commands_a_terminal_becomes_visible() -> None:
    assert printable("\x1b[31mred\x1b[0m text") == "red text"
    # clears the screen; sets the title; overwrites the line; reads backwards; C1 control
    hostile = "a\x1b[2Jb\x1b]0;title\x07c\rd\u202ee\x9bf\x1b\x1b[0m[2J"
    found = printable(hostile)
    assert not any(ord(char) < 32 or char in "\x7f\x9b\u202e" for char in found)
    assert found.startswith("a�[2Jb�]0;title�c�d�e�f�[2J")
    assert printable("two\nlines\tand ümläut 中") == "two\nlines\tand ümläut 中"
