"""What stores and disks refuse for good is a sentence that names the field; what may pass, or is a mistake, is not."""

import errno
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import botocore.exceptions as boto
import fsspec
import pytest
from s3fs.errors import translate_boto_error

from fgvr import storage
from fgvr.config import build
from fgvr.storage_errors import StorageRefused, refusal, told
from pipelines.places import check_stores

SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


def answered(code: str, status: int = 403, **facts: str) -> Exception:
    """As s3fs raises what a store answers."""
    reply = {"Error": {"Code": code, "Message": "m", **facts}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(boto.ClientError(reply, "PutObject"))  # type: ignore[arg-type,no-any-return]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (boto.NoCredentialsError(), "no credentials"),
        (boto.PartialCredentialsError(provider="env", cred_var="aws_secret_access_key"), "not complete"),
        (boto.ProfileNotFound(profile="work"), "AWS_PROFILE"),
        (boto.EndpointConnectionError(endpoint_url="http://127.0.0.1:9"), "no store answers"),
        (answered("ExpiredToken", 400), "expired: renew"),
        (answered("InvalidAccessKeyId"), "does not know this key"),
        (answered("SignatureDoesNotMatch"), "does not know this key"),
        (answered("AccessDenied"), "access is denied"),
        (answered("403"), "access is denied"),
        (answered("NoSuchBucket", 404), "no such bucket"),
        (
            answered("AuthorizationHeaderMalformed", 400, Region="eu-west-1"),
            "another region, eu-west-1: set",
        ),
        (answered("PermanentRedirect", 301), "another region: set"),
        (answered("RequestTimeTooSkewed"), "clock is wrong"),
        (OSError(errno.EROFS, "Read-only file system", "/mnt/x"), r"Read-only file system \(/mnt/x\)"),
        (OSError(errno.ENOSPC, "No space left on device", "/mnt/x"), "No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/mnt/x"), "Permission denied"),
    ],
)
def test_a_refusal_is_a_sentence_with_the_field(error: Exception, words: str) -> None:
    with (
        pytest.raises(StorageRefused, match=rf"^run\.folder = s3://b/runs: .*{words}") as caught,
        told("run.folder", "s3://b/runs"),
    ):
        raise error
    assert "\n" not in str(caught.value)


def test_it_is_found_behind_what_others_made_of_it() -> None:
    error = RuntimeError("a task failed")
    error.__cause__ = boto.NoCredentialsError()
    assert "no credentials" in str(refusal(error))


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("x"),
        ValueError("x"),
        answered("SlowDown", 503),
        answered("NoSuchKey", 404),
        FileExistsError(errno.EEXIST, "File exists", "/x"),
    ],
)
def test_what_is_no_refusal_stays_what_it_is(error: Exception) -> None:
    assert refusal(error) is None
    with pytest.raises(type(error)), told("run.folder", "s3://b"):
        raise error


class Denying(BaseHTTPRequestHandler):
    """An S3 store that answers everybody with one code."""

    def _any(self) -> None:
        body = f"<Error><Code>{self.server.code}</Code><Message>no</Message></Error>".encode()  # type: ignore[attr-defined]
        self.send_response(403)
        self.send_header("Content-Length", str(0 if self.command == "HEAD" else len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = _any  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def denied(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Denying)
    server.code = "InvalidAccessKeyId"  # type: ignore[attr-defined]
    Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield server
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.shutdown()


def test_a_run_folder_that_may_not_be_written_is_told(denied: ThreadingHTTPServer) -> None:
    with (
        pytest.raises(StorageRefused, match=r"run\.folder = s3://b/runs: the store does not know this key"),
        told("run.folder", "s3://b/runs"),
    ):
        storage.write_bytes("s3://b/runs/x/config.yaml", b"x")


@pytest.mark.parametrize(
    ("tree", "field"),
    [
        ({"run": {"folder": "s3://b/runs"}}, "run.folder"),
        ({"ingest": {"source": {"kind": "folder", "path": "s3://b/photos"}}}, "ingest.source.path"),
        (
            {"ingest": {"source": {"kind": "webdataset", "path": "s3://b/t-{00..12}.tar"}}},
            "ingest.source.path",
        ),
        ({"mllm": {"kind": "vllm", "model": "s3://b/model"}}, "mllm.model"),
        ({"clip": {"model": "ViT-B-16", "pretrained": "s3://b/clip.pt"}}, "clip.pretrained"),
        ({"label": {"aliases": "s3://b/aliases.csv"}}, "label.aliases"),
        ({"evaluate": {"prices": "s3://b/prices.yaml"}}, "evaluate.prices"),
        ({"questions": {"file": "s3://b/q.txt"}}, "questions.file"),
        ({"mllm": {"kind": "openai", "model": "m", "reply_cache": "s3://b/replies"}}, "mllm.reply_cache"),
    ],
)
def test_every_place_that_a_config_names_is_looked_at(
    tree: dict[str, object], field: str, denied: ThreadingHTTPServer
) -> None:
    with pytest.raises(StorageRefused, match=rf"^{field} = s3://b/.*: access is denied"):
        check_stores(build(tree))


def test_without_credentials_a_sentence_says_what_the_environment_must_hold(
    denied: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StorageRefused, match="no credentials for it: the environment must hold AWS_ACCESS_KEY_ID"):
        check_stores(build({"run": {"folder": "s3://b/runs"}}))


def test_places_on_this_machine_and_words_are_left_alone() -> None:
    check_stores(build({"evaluate": {"prices": "shipped"}, "label": {"prompt": "Is it s3 or gs?"}}))


def test_a_store_whose_library_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(uri: str) -> bool:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr("pipelines.places.storage.exists", missing)
    with pytest.raises(StorageRefused, match=r"run\.folder = gs://b/runs: a package is missing: Please install gcsfs"):
        check_stores(build({"run": {"folder": "gs://b/runs"}}))
