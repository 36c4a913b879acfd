import os
from collections.abc import Iterator

import pytest

# Before anything imports the libraries that read them: a hub name in a test is an error, not a download.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture(autouse=True)
def _no_tracking_store() -> None:
    """`mlflow.set_tracking_uri` sets an environment variable that the next test's run would obey."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def ray_session_of_two() -> Iterator[None]:
    """One Ray session of two cores for all tests that need one in their own process."""
    from cluster.session import ray_session
    from fgvr.config.run import Cluster

    with ray_session(Cluster(num_cpus=2)):
        yield
