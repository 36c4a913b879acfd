import os
import pickle
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgvr import storage
from fgvr.errors import UserError


@pytest.fixture
def memory() -> str:
    return f"memory://{uuid.uuid4().hex}"


def test_join_keeps_the_scheme_and_one_slash() -> None:
    assert (
        storage.join("s3://bucket/runs/", "demo", "/tables/", "x.parquet") == "s3://bucket/runs/demo/tables/x.parquet"
    )
    assert storage.join(Path("/data"), "a") == "/data/a"


@pytest.mark.parametrize("name", ["plain.jpg", "with space.jpg", "a::b.jpg", "percent%41.jpg", "#hash?.jpg"])
def test_a_plain_path_is_taken_literally(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert storage.read_bytes(str(tmp_path / name)) == b"x"


def test_a_name_that_is_not_utf8_has_a_uri(tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    Path(os.fsdecode(place)).write_bytes(b"latin-1")
    uri = storage.file_uri(Path(os.fsdecode(place)))
    assert uri == f"file://{tmp_path}/caf%E9.jpg"
    uri.encode()  # the point: it fits into a Parquet string
    assert storage.read_bytes(uri) == b"latin-1"


def test_absolute_changes_local_paths_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs") == f"{tmp_path}/runs"
    assert storage.absolute("s3://bucket/runs/") == "s3://bucket/runs"


def test_a_write_that_dies_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" / "folder" / "file.json"
    storage.write_bytes(target, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes(target, b"new content")
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    assert [file.name for file in target.parent.iterdir()] == ["file.json"]


def test_a_file_in_pieces_appears_as_a_whole_or_not_at_all(tmp_path: Path, memory: str) -> None:
    for place in (tmp_path / "deep" / "x.bin", storage.join(memory, "deep", "x.bin")):
        with storage.new_file(place) as file:
            file.write(b"one, ")
            assert not storage.exists(place)
            file.write(b"two")
        with pytest.raises(TypeError, match="bytes-like"), storage.new_file(place) as file:
            file.writelines([b"three", "no bytes"])  # type: ignore[list-item]
        assert storage.read_bytes(place) == b"one, two"
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["x.bin"]


def test_listings_leave_out_folders_hidden_files_and_other_endings(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", ".a.parquet", "a.json"):
        (tmp_path / name).touch()
    (tmp_path / "c.parquet").mkdir()
    assert storage.list_files(tmp_path, ".parquet") == ["a.parquet", "b.parquet"]
    assert storage.list_files(tmp_path / "missing") == []


def test_an_object_store_serves_like_a_folder(memory: str) -> None:
    place = storage.join(memory, "deep", "x.bin")
    assert not storage.exists(place)
    storage.write_bytes(place, b"1")
    storage.write_bytes(place, b"22")
    assert storage.read_bytes(place) == b"22"
    assert storage.list_files(storage.join(memory, "deep")) == ["x.bin"]
    storage.remove(memory)
    assert not storage.exists(place)
    storage.remove(memory)  # nothing there: nothing happens
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(place)


def test_pyarrow_reads_through_the_arrow_filesystem(memory: str) -> None:
    rows = pa.table({"x": [1, 2, 3]})
    filesystem, path = storage.arrow_filesystem(storage.join(memory, "t.parquet"))
    pq.write_table(rows, path, filesystem=filesystem)
    assert pq.read_table(path, filesystem=filesystem).equals(rows)


ODD_NAMES = ["photos [2024]", "run?", "run*", "r[a-z]n1", "a]b", "a#b", "100%", "a%20b", " a b ", "**", "{a,b}"]
"""Patterns for fsspec's `rm`, and what URIs give a meaning; each matches or resembles one of `OTHERS`."""
OTHERS = ["photos 2", "run1", "runs", "a", "a b", "100", "deep/photos 2", "b"]


@pytest.fixture(params=["memory", "s3"])
def bucket(request: pytest.FixtureRequest, memory: str) -> str:
    if request.param == "memory":
        return memory
    name = uuid.uuid4().hex  # moto keeps buckets for later servers
    request.getfixturevalue("s3").mkdir(name)
    return f"s3://{name}"


def test_exactly_what_is_named_is_removed(bucket: str) -> None:
    for name in OTHERS:
        storage.write_bytes(f"{bucket}/{name}/tables/x.json", b"another run's")
    for name in ODD_NAMES:
        for file in ("ids", "ids2", "tables/x.json", "tables/deep/y"):
            storage.write_bytes(f"{bucket}/{name}/{file}", name.encode())
        assert storage.read_bytes(f"{bucket}/{name}/ids") == name.encode()
        storage.remove(f"{bucket}/{name}/ids")
        storage.remove(f"{bucket}/{name}/ids")  # nothing there: nothing happens
        assert storage.list_entries(f"{bucket}/{name}") == (["ids2"], ["tables"])
    for name in ODD_NAMES:
        storage.remove(f"{bucket}/{name}/tables")
        assert storage.list_entries(f"{bucket}/{name}") == (["ids2"], [])
        storage.remove(f"{bucket}/{name}")
        assert not storage.exists(f"{bucket}/{name}")
    assert all(storage.exists(f"{bucket}/{name}/tables/x.json") for name in OTHERS)


def test_the_mark_of_an_empty_folder_goes_with_it(s3) -> None:
    s3.mkdir("marks")
    for key in ("folder/", "folder/deep/", "folder/deep/x", "folder2/"):
        s3.pipe_file(f"marks/{key}", b"")
    storage.remove("s3://marks/folder")
    assert s3.find("marks") == ["marks/folder2/"]


def test_a_store_that_refuses_to_remove_says_so(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError("no s3:DeleteObject")

    storage.write_bytes(f"{memory}/folder/x", b"1")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "rm_file", refused)
    for place in ("folder/x", "folder"):
        with pytest.raises(PermissionError, match="DeleteObject"):
            storage.remove(f"{memory}/{place}")


def test_arrow_changes_exactly_what_is_named(bucket: str) -> None:
    for name in OTHERS:
        storage.write_bytes(f"{bucket}/{name}/x", b"another run's")
    for name in ODD_NAMES:
        filesystem, path = storage.arrow_filesystem(f"{bucket}/{name}")
        filesystem = pickle.loads(pickle.dumps(filesystem))  # noqa: S301  # as Ray sends it
        filesystem.create_dir(f"{path}/deep")
        for file in ("x", "deep/y", "z"):
            with filesystem.open_output_stream(f"{path}/{file}") as stream:
                stream.write(name.encode())
        filesystem.delete_file(f"{path}/z")
        filesystem.copy_file(f"{path}/x", f"{path}/copy")
        filesystem.move(f"{path}/deep", f"{path}/moved")
        assert storage.list_entries(f"{bucket}/{name}") == (["copy", "x"], ["moved"])
        assert filesystem.open_input_file(f"{path}/moved/y").read() == name.encode()
        filesystem.delete_dir(f"{path}/moved")
        assert storage.list_entries(f"{bucket}/{name}") == (["copy", "x"], [])
        filesystem.delete_dir_contents(path)
        assert storage.list_entries(f"{bucket}/{name}") == ([], [])
        for missing in (filesystem.delete_dir, filesystem.delete_file, filesystem.delete_dir_contents):
            with pytest.raises(FileNotFoundError):
                missing(f"{path}/nowhere")
    assert all(storage.exists(f"{bucket}/{name}/x") for name in OTHERS)


def test_names_that_look_like_patterns_are_read_listed_and_fetched(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))
    for name in OTHERS:
        storage.write_bytes(f"{bucket}/{name}/other", b"")
    for name in ODD_NAMES:
        place = f"{bucket}/{name}"
        with storage.new_file(f"{place}/{name}/x") as file:
            file.write(b"xyz")
        assert storage.list_entries(place) == ([], [name])
        assert storage.create_bytes(f"{place}/once", b"1")
        assert not storage.create_bytes(f"{place}/once", b"2")
        assert storage.read_bytes(f"{place}/{name}/x", 1, 2) == b"y"
        copy = storage.fetch_folder(place)
        assert {file.relative_to(copy).as_posix() for file in copy.rglob("*") if file.is_file()} == {
            f"{name}/x",
            "once",
        }
        assert storage.fetch_file(f"{place}/{name}/x").read_bytes() == b"xyz"
        filesystem, path = storage.arrow_filesystem(f"{place}/t.parquet")
        pq.write_table(pa.table({"x": [1]}), path, filesystem=filesystem)
        assert pq.read_table(path, filesystem=filesystem)["x"].to_pylist() == [1]


def test_a_remote_folder_is_fetched_once_and_again_when_it_changed(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))
    local = tmp_path / "model"
    (local / "deep").mkdir(parents=True)
    (local / "config.json").write_bytes(b"{}")
    (local / "deep" / "weights").write_bytes(b"abc")
    storage.put_folder(local, memory)

    first = storage.fetch_folder(memory)
    assert (first / "deep" / "weights").read_bytes() == b"abc"
    assert storage.fetch_folder(memory) == first
    storage.write_bytes(storage.join(memory, "deep", "weights"), b"xyz")  # the same name and size
    assert (storage.fetch_folder(memory) / "deep" / "weights").read_bytes() == b"xyz"


def test_those_who_want_a_folder_at_once_fetch_it_once(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(storage.join(memory, "weights"), b"abc")
    fetched: list[str] = []

    def slowly(self: fsspec.AbstractFileSystem, name: str, *args: object, **more: object) -> None:
        fetched.append(name)
        time.sleep(0.2)
        get_file(self, name, *args, **more)

    memory_files = type(fsspec.filesystem("memory"))
    get_file = memory_files.get_file
    monkeypatch.setattr(memory_files, "get_file", slowly)
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(storage.fetch_folder, [memory] * 4))
    assert [(copy / "weights").read_bytes() for copy in copies] == [b"abc"]
    assert len(fetched) == 1


def test_a_local_folder_is_not_copied(tmp_path: Path) -> None:
    assert storage.fetch_folder(tmp_path) == tmp_path
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        storage.fetch_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nothing at memory://nowhere"):
        storage.fetch_folder("memory://nowhere")


def test_schemes_count_in_any_case(tmp_path: Path) -> None:
    name = uuid.uuid4().hex
    storage.write_bytes(f"memory://{name}/a", b"1")
    assert storage.read_bytes(f"Memory://{name}/a") == b"1"
    assert storage.is_object_store(f"S3://{name}/a")
    assert storage.absolute("S3://Bucket/Key/") == "s3://Bucket/Key"
    assert storage.small_scheme("S3://Bucket/a://B") == "s3://Bucket/a://B"
    storage.write_bytes(tmp_path / "a b", b"2")
    assert storage.read_bytes(f"FILE://{tmp_path}/a%20b") == b"2"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("s3a://birds/Photos/", "S3://birds/Photos"),
        ("gcs://birds/a", "gs://birds/a"),
        ("https://Files.Example.ORG/Birds/", "HTTPS://files.example.org/Birds"),
        ("http://Me@Host:80", "http://Me@host:80/"),
    ],
)
def test_spellings_of_one_place(one: str, other: str) -> None:
    assert storage.canonical(one) == storage.canonical(other)


@pytest.mark.parametrize(
    "other", ["s3://Birds/photos", "s3://birds/Photos", "gs://birds/photos", "https://birds/photos"]
)
def test_other_places(other: str) -> None:
    assert storage.canonical("s3://birds/photos") != storage.canonical(other)
    assert storage.canonical(other) == other  # fingerprints of earlier versions hold it so


def test_two_colons_belong_to_a_key() -> None:
    name = uuid.uuid4().hex
    for key in ("a::b.jpg", "C::d/::e", "zip://x::y"):
        uri = f"memory://{name}/{key}"
        storage.write_bytes(uri, key.encode())
        assert storage.is_object_store(uri)
        assert storage.read_bytes(uri) == key.encode()
    fs, _ = storage.resolve(f"memory://{name}/a::b.jpg")
    assert type(fs).__name__ == "MemoryFileSystem"


def test_a_chain_leads_to_no_object_store() -> None:
    for uri in ("simplecache::s3://bucket/key", "zip://a.zip::s3://bucket/key", "ftp://host/x", "s3://a/b::Http://c"):
        assert not storage.is_object_store(uri)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_created_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:  # as on many network shares

        def refused(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refused)
    target = tmp_path / "new" / "it.json"
    with ThreadPoolExecutor(8) as pool:
        wrote = list(pool.map(lambda n: storage.create_bytes(target, b"%d" % n), range(8)))
    assert sum(wrote) == 1
    assert target.read_bytes() == b"%d" % wrote.index(True)
    assert [file.name for file in target.parent.iterdir()] == ["it.json"]


def test_an_object_is_created_once(memory: str) -> None:
    assert [storage.create_bytes(f"{memory}/it", text) for text in (b"first", b"second")] == [True, False]
    assert storage.read_bytes(f"{memory}/it") == b"first"


def test_an_object_of_s3_is_created_once(s3) -> None:
    s3.mkdir("once")
    with ThreadPoolExecutor(4) as pool:
        wrote = list(pool.map(lambda n: storage.create_bytes("s3://once/it", b"%d" % n), range(4)))
    assert sum(wrote) == 1
    assert storage.read_bytes("s3://once/it") == b"%d" % wrote.index(True)


@pytest.mark.parametrize(
    "key",
    [
        *("../PWNED", "a/../../../PWNED", "..", "./x", "a/./b", "a//b", "/etc/PWNED", "//etc/PWNED", "a/..", "C:PWNED"),
        *("..\\PWNED", "a\\..\\..\\PWNED", "\\\\server\\share\\x", "c:/PWNED", "nul\0byte", "a/b\0/c"),
    ],
)
def test_no_name_of_a_listing_leaves_its_folder(
    key: str, memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "deep" / "cache"))
    storage.write_bytes(storage.join(memory, "config.json"), b"{}")
    fs, path = storage.resolve(memory)

    def listed(self: object, place: str, **_: object) -> dict[str, dict[str, object]]:
        names = [f"{path}/config.json", f"{path}/{key}"]
        return {name: {"name": f"{path}/config.json", "size": 2} for name in names}

    monkeypatch.setattr(type(fs), "find", listed)
    assert storage.leads_out(key)
    with pytest.raises(storage.NameLeadsOut, match="leads out of its folder, so nothing of it was fetched"):
        storage.fetch_folder(memory)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    # What is not wanted of a folder does not keep the rest from being fetched.
    assert (storage.fetch_folder(memory, lambda _: ["config.json"]) / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("a" * 300 + ".bin", "has a part of 304 bytes, where file systems allow 255"),
        ("deep/" + "ü" * 128, "has a part of 256 bytes"),
        ("/".join(["d" * 200] * 30), "has 6,029 bytes, more than a path may have"),
        ("a/caf\ud800", "has characters that no file's name can have"),
    ],
)
def test_a_key_that_no_path_can_hold_is_named(
    key: str, words: str, memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path))
    storage.write_bytes(storage.join(memory, "config.json"), b"{}")
    storage.write_bytes(storage.join(memory, key), b"x")
    with pytest.raises(UserError, match=rf"the name '{key[:5]}.* {words}.*, so nothing of it was fetched") as caught:
        storage.fetch_folder(memory)
    assert len(str(caught.value)) < 500
    assert (storage.fetch_folder(memory, lambda _: ["config.json"]) / "config.json").read_bytes() == b"{}"


def test_the_longest_names_are_fetched_and_a_cache_that_has_no_room_for_them_is_told(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path))
    key = "/".join(["d" * 255] * 14)
    storage.write_bytes(storage.join(memory, key), b"x")
    assert (storage.fetch_folder(memory) / key).read_bytes() == b"x"
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path.joinpath(*["c" * 200] * 3)))
    with pytest.raises(
        UserError, match=r"memory://.*: a name in it is too long for the disk of .*set FGVR_CACHE to a s"
    ):
        storage.fetch_folder(memory)


def test_usual_names_of_a_listing_stay() -> None:
    for name in ("a", "a/b.json", "..a/b..", "...", "a b/ü", "model-00001-of-00002.safetensors", "ab:c", "1:x", "a~/x"):
        assert not storage.leads_out(name)


def test_markers_of_folders_are_no_files_and_a_file_is_no_folder(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path))
    fs, path = storage.resolve(memory)
    storage.write_bytes(storage.join(memory, "a/b"), b"12")
    entries = {f"{path}/": 0, f"{path}/a/": 0, f"{path}/a/b": 2}
    monkeypatch.setattr(
        type(fs), "find", lambda *_, **__: {name: {"name": name, "size": size} for name, size in entries.items()}
    )
    folder = storage.fetch_folder(memory)
    assert [file.relative_to(folder).as_posix() for file in folder.rglob("*")] == ["a", "a/b"]
    entries[f"{path}/a"] = 3  # object stores hold both
    with pytest.raises(storage.NameLeadsOut, match="'a/b' makes a folder of 'a', which is a file, too"):
        storage.fetch_folder(memory)


@pytest.mark.parametrize("kind", ["disk", "bucket"])
def test_a_file_is_no_folder_of_itself(tmp_path: Path, kind: str) -> None:
    place = str(tmp_path / "runs") if kind == "disk" else f"memory://{tmp_path.name}/runs"
    storage.write_bytes(place, b"a file")
    assert storage.list_entries(place) == ([], [])
    assert storage.list_files(f"{place}/birds") == []
