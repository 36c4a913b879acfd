import tarfile

import pytest

from cluster.parts import TooManyFailures
from cluster.stage import RunContext
from fgvr.config import build
from fgvr.datasets import SourceError
from pipelines import ingest
from pipelines.flow import stage_main
from tests.untracked import NoTracking


def context(folder, **source) -> RunContext:
    config = build({"ingest": {"source": source, "rows_per_part": 2}})
    return RunContext(config, str(folder / "run"), NoTracking())


def test_samples_in_parts_and_facts_beside_them(tmp_path):
    (tmp_path / "list.csv").write_text(
        "uri,split,class_name\nc.jpg,test,Tern\na.jpg,,Gull\nb.jpg,train,\n,train,Gull\na.jpg,test,Gull\nd.jpg,,\n"
    )
    table = ingest.run(context(tmp_path, kind="table", path=str(tmp_path / "list.csv")))
    rows = table.read().to_pylist()
    assert [(row["image_id"], row["uri"][-5:], row["split"], row["class_id"]) for row in rows] == [
        (0, "a.jpg", "train", 0),
        (1, "b.jpg", "train", None),
        (2, "c.jpg", "test", 1),
        (3, "d.jpg", "train", None),
    ]
    assert (table.rows, table.parts, table.failed) == (4, 2, 0)
    assert table.extra["splits"] == {"train": 3, "test": 1}
    assert (table.extra["duplicates"], table.extra["conflicts"], table.extra["without_uri"]) == (1, 1, 1)
    assert table.take(table.read()["image_id"].to_numpy()[[3, 0]], ["image_id"])["image_id"].to_pylist() == [3, 0]


def test_again_is_the_same_table_an_edited_file_another(tmp_path):
    file = tmp_path / "list.csv"
    file.write_text("uri\na.jpg\n")
    options = {"kind": "table", "path": str(file)}
    first, again = ingest.run(context(tmp_path, **options)), ingest.run(context(tmp_path, **options))
    assert first.uri == again.uri
    file.write_text("uri\nb.jpg\n")
    assert ingest.run(context(tmp_path, **options)).uri != first.uri


def test_a_folder_is_listed_again_when_asked(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "b.jpg").write_bytes(b"")
    options = {"kind": "folder", "path": str(photos)}
    assert ingest.run(context(tmp_path, **options)).rows == 1
    (photos / "a.jpg").write_bytes(b"")
    assert ingest.run(context(tmp_path, **options)).rows == 1
    assert ingest.run(context(tmp_path, **options, snapshot="monday")).rows == 2


def tars(folder, count: int, bad: int):
    for n in range(count):
        with tarfile.open(folder / f"{n:02d}.tar", "w") as tar:
            for name in ("a.jpg", "b.jpg"):
                tar.addfile(tarfile.TarInfo(name))
        if n < bad:  # cut in the header of its second member
            (folder / f"{n:02d}.tar").write_bytes((folder / f"{n:02d}.tar").read_bytes()[:700])


def test_one_damaged_tar_of_many_is_a_row_and_a_remark(tmp_path):
    tars(tmp_path, count=12, bad=1)
    table = ingest.run(context(tmp_path, kind="webdataset", path=str(tmp_path)))
    uris = table.read(["uri"])["uri"].to_pylist()
    assert table.rows == 12 * 2 - 1 + 1
    assert uris[-1].startswith(f"unlisted+file://{tmp_path}/00.tar#corrupt/")
    assert (table.extra["files"], table.extra["bad_files"]) == (12, 1)
    assert table.extra["remarks"] == [
        f"not read to its end: file://{tmp_path}/00.tar: from byte 512: the archive ends inside a header"
    ]


def test_too_many_damaged_tars_stop_the_run(tmp_path):
    tars(tmp_path, count=12, bad=2)
    with pytest.raises(TooManyFailures, match=r"2 of 12 files .* run.max_error_share = 0.01 allows: .*00\.tar: from"):
        ingest.run(context(tmp_path, kind="webdataset", path=str(tmp_path)))


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(SourceError, match="there is no such file"):
        ingest.run(context(tmp_path, kind="table", path=str(tmp_path / "gone.csv")))


def test_what_a_table_lacks_is_logged_and_kept(tmp_path, caplog):
    (tmp_path / "list.csv").write_text("uri,Split,class_name\na.jpg,test,mug\nb.jpg,test,\n")
    table = ingest.run(context(tmp_path, kind="table", path=str(tmp_path / "list.csv")))
    near, missing = table.extra["remarks"]
    assert "is Split meant?" in near
    assert missing == "1 of 2 photos (50%) have no class"
    assert {f"ingest: {near}", f"ingest: {missing}"} <= set(caplog.messages)


def test_a_slip_in_a_column_ends_before_anything_is_started(tmp_path, monkeypatch, capsys):
    (tmp_path / "list.csv").write_text("uri,label\na.jpg,mug\n")
    words = {"kind": "table", "path": str(tmp_path / "list.csv"), "class_column": "lable"}
    flags = [word for name, value in words.items() for word in (f"--ingest.source.{name}", value)]
    monkeypatch.setattr("sys.argv", ["ingest.py", *flags])
    monkeypatch.setattr("cluster.run.open_run", lambda _: pytest.fail("it was started"))
    with pytest.raises(SystemExit) as caught:
        stage_main("ingest", lambda flow: flow.samples)
    assert caught.value.code == 2
    assert "did you mean label?" in capsys.readouterr().err
