"""Whether all nodes see the run's folder, with nodes that are functions."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from cluster.run_folder import NotShared, check_seen, look_at

NODES = {"a1": "alpha", "b2": "beta", "c3": "gamma"}


def test_nodes_that_see_it_are_content_and_nothing_is_left(tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(nodes: Mapping[str, str], file: str, mark: str) -> dict[str, str]:
        asked.extend(nodes)
        return {node: look_at(file, mark) for node in nodes}

    check_seen(str(tmp_path), nodes=NODES, ask=ask)
    assert asked == list(NODES)
    assert list(tmp_path.iterdir()) == []


def test_a_node_without_it_is_named_with_what_to_do(tmp_path: Path) -> None:
    def ask(nodes: Mapping[str, str], file: str, mark: str) -> dict[str, str]:
        elsewhere = str(tmp_path / "elsewhere" / Path(file).name)
        return {node: look_at(elsewhere if node == "b2" else file, mark) for node in nodes}

    with pytest.raises(NotShared, match=r"1 of the cluster's 3 other nodes \(on beta: No such file") as caught:
        check_seen(str(tmp_path), nodes=NODES, ask=ask)
    assert "--run.folder s3://" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_same_name_on_another_disk_is_another_folder(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()

    def ask(nodes: Mapping[str, str], file: str, mark: str) -> dict[str, str]:
        shutil.copy(file, there / Path(file).name)
        (there / Path(file).name).write_text("of a run before")
        return {node: look_at(str(there / Path(file).name), mark) for node in nodes}

    with pytest.raises(NotShared, match="there is another folder of this name"):
        check_seen(str(here), nodes={"a1": "alpha"}, ask=ask)


def test_nodes_that_do_not_answer_stop_nothing_and_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_seen(str(tmp_path), nodes=NODES, ask=lambda *_: {"a1": ""})
    assert "beta, gamma did not say" in caplog.text


def test_an_object_store_and_a_single_node_are_not_asked(tmp_path: Path) -> None:
    def nobody(*_: object) -> dict[str, str]:
        raise AssertionError("asked")

    check_seen("s3://bucket/runs/x", nodes=NODES, ask=nobody)
    check_seen(str(tmp_path), nodes={}, ask=nobody)
