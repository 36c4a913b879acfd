import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.data._internal.issue_detection import issue_detector_manager
from ray.exceptions import RaySystemError

from cluster.console import quiet_ray_data, silence_ray_data


def test_advice_about_rays_own_api_goes_to_its_log_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet_ray_data()
    quiet_ray_data()  # a second session of this process
    ray_data = logging.getLogger("ray.data")
    console, console_text = next(h for h in ray_data.handlers if type(h).__name__ == "PlainRayHandler"), io.StringIO()
    monkeypatch.setattr(console, "stream", console_text)
    file = logging.FileHandler(tmp_path / "ray-data.log")
    monkeypatch.setattr(ray_data, "handlers", [*ray_data.handlers, file])  # as a session has one
    issue_detector_manager.logger.warning("Operator 'MapBatches(_PartActor)' uses 126.9MiB of memory per worker")
    logging.getLogger("ray.data._internal.execution").warning("actors died")
    file.close()
    assert (tmp_path / "ray-data.log").read_text().splitlines() == [
        "Operator 'MapBatches(_PartActor)' uses 126.9MiB of memory per worker",
        "actors died",
    ]
    assert [line.rsplit(" -- ", 1)[1] for line in console_text.getvalue().splitlines()] == ["actors died"]


def test_a_generator_that_outlives_its_ray_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(str(unraisable.exc_value)))
    silence_ray_data()
    silence_ray_data()
    quiet_ray_data()  # as the next session does

    def collected(error: Exception) -> Iterator[int]:
        try:
            yield 1
        finally:
            raise error

    for error in (RaySystemError("Ray has not been started yet"), ValueError("of another kind")):
        generator = collected(error)
        next(generator)
        del generator
    assert told == ["of another kind"]
