from pathlib import Path

import pytest
import torch

from cluster.session import SessionError
from cluster.train import train
from fgvr.config.base import TrainWorkers
from fgvr.errors import UserError
from tests.cluster.workers import sum_of_ranks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session_of_two")]


def test_two_workers_train_together(tmp_path: Path) -> None:
    workers = TrainWorkers(num_workers=2, num_cpus=1)
    result = train(sum_of_ranks, {"epochs": 3}, name="sum", folder=str(tmp_path), workers=workers)
    assert result.metrics["total"] == 9  # (1 + 2) in each of three epochs
    assert torch.load(Path(result.checkpoint) / "state.pt") == (3, 9.0)


def test_a_worker_that_dies_continues_from_its_last_checkpoint(tmp_path: Path) -> None:
    workers = TrainWorkers(num_workers=1, num_cpus=2, max_failures=1)
    result = train(sum_of_ranks, {"epochs": 4, "dies_at": 2}, name="sum", folder=str(tmp_path), workers=workers)
    assert (result.metrics["total"], result.metrics["resumed"]) == (4, 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_that_dies_is_replaced(tmp_path: Path, workers: int) -> None:
    asked = TrainWorkers(num_workers=workers, num_cpus=1, max_failures=1)
    # Ray Train takes a checkpoint when it next asks its workers, every two seconds; a busy machine had taken none.
    config = {"epochs": 4, "killed_at": 2, "waits": 0 if workers == 1 else 6}
    result = train(sum_of_ranks, config, name="sum", folder=str(tmp_path), workers=asked)
    assert result.metrics["epoch"] == 4
    assert result.metrics["resumed"] in {1, 2}


def test_what_the_user_has_to_fix_is_not_tried_again(tmp_path: Path) -> None:
    workers = TrainWorkers(num_workers=1, num_cpus=1, max_failures=3)
    config = {"epochs": 4, "refuses_at": 2}
    with pytest.raises(UserError, match=r"^lower the rate$"):
        train(sum_of_ranks, config, name="sum", folder=str(tmp_path), workers=workers)
    assert len([path for path in (tmp_path / "sum").iterdir() if path.is_dir()]) == 1  # one attempt


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    workers = TrainWorkers(num_workers=1, num_cpus=1)
    result = train(sum_of_ranks, {"epochs": 5}, name="sum", folder=str(tmp_path), workers=workers)
    kept = {torch.load(path)[0] for path in tmp_path.rglob("state.pt")}
    assert kept == {4, 5}
    assert torch.load(Path(result.checkpoint) / "state.pt") == (5, 5.0)


def test_an_elastic_training_takes_the_workers_that_fit(tmp_path: Path) -> None:
    workers = TrainWorkers(min_workers=1, num_workers=4, num_cpus=1)
    result = train(sum_of_ranks, {"epochs": 3}, name="sum", folder=str(tmp_path), workers=workers)
    assert result.metrics["total"] == 9  # of two workers: there are two cores


def test_an_error_of_the_loop_is_told(tmp_path: Path) -> None:
    workers = TrainWorkers(num_workers=1, num_cpus=1, max_failures=0)
    with pytest.raises(RuntimeError, match="out of luck in the loop"):
        train(sum_of_ranks, {"epochs": 4, "dies_at": 2}, name="sum", folder=str(tmp_path), workers=workers)
    # The next session of the run continues where this one stopped.
    result = train(sum_of_ranks, {"epochs": 4, "dies_at": 2}, name="sum", folder=str(tmp_path), workers=workers)
    assert (result.metrics["total"], result.metrics["resumed"]) == (4, 2)


def test_more_workers_than_fit_are_refused(tmp_path: Path) -> None:
    workers = TrainWorkers(num_workers=3, num_cpus=1)
    with pytest.raises(SessionError, match=r"near\.workers\.num_workers = 3: the cluster has room for 2"):
        train(sum_of_ranks, {}, name="sum", folder=str(tmp_path), workers=workers, field="near.workers")
