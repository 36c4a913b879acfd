from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fgvr import tables
from fgvr.sources.sampling import split_ids
from fgvr.tables import Table


@pytest.fixture
def samples(tmp_path: Path) -> Table:
    """Ten images in parts of four: every third is a test image, 5 is of neither split."""
    splits = ["test" if n % 3 == 0 else "dev" if n == 5 else "train" for n in range(10)]
    rows = pa.table({"image_id": range(10), "split": splits})
    for number, first in enumerate(range(0, 10, 4)):
        tables.write_part(str(tmp_path), number, rows.slice(first, 4))
    return Table(str(tmp_path), "samples", "f", 10, 0, 3, 4, 0.0)


def test_ids_of_splits(samples: Table) -> None:
    assert split_ids(samples, ["test"]).tolist() == [0, 3, 6, 9]
    assert split_ids(samples, ("dev", "train")).tolist() == [1, 2, 4, 5, 7, 8]
    assert split_ids(samples, None).tolist() == list(range(10))
    assert split_ids(samples, ["none"]).tolist() == []
    assert split_ids(samples, ["none"]).dtype == np.int64
