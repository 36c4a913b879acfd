from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from fgvr import schemas
from fgvr.config.data import ImageLimits
from fgvr.images.pictures import Picture
from fgvr.mllm.backend import NameAnswer, NameTask
from fgvr.mllm.scoring_workers import ClassScoreSettings, ClassScoreWorker
from fgvr.schemas import Failure, Reason

NAMES = ("Wren", "Teal", "Owl")


class Brightness:
    """Scores by the mean pixel; black pictures fail."""

    def name_scores(self, pictures: Iterable[Picture], task: NameTask) -> list[NameAnswer]:
        assert task.names == NAMES
        answers = []
        for picture in pictures:
            mean = float(np.asarray(picture.image).mean())
            failure = None if mean else Failure(Reason.REQUEST_REJECTED, "black")
            scores = np.array([-mean, -1, -2], dtype=np.float32)
            answers.append(NameAnswer(failure=failure) if failure else NameAnswer(scores, 10, 8))
        return answers


def test_every_image_is_a_row_in_order(tmp_path: Path) -> None:
    uris = []
    for name, level in (("grey", 100), ("black", 0), ("light", 200)):
        Image.new("L", (8, 8), level).save(tmp_path / f"{name}.png")
        uris.append(str(tmp_path / f"{name}.png"))
    rows = pa.table({"image_id": [4, 5, 6, 9], "uri": [uris[0], str(tmp_path / "missing.png"), uris[1], uris[2]]})
    settings = ClassScoreSettings(NameTask(NAMES, "Name it"), ImageLimits())
    found = ClassScoreWorker(settings, Brightness()).process(rows)
    assert found.schema.equals(schemas.class_scores(3), check_metadata=True)
    assert found["image_id"].to_pylist() == [4, 5, 6, 9]
    assert found["scores"].to_pylist() == [[-100, -1, -2], None, None, [-200, -1, -2]]
    reasons = [None if error is None else error["reason"] for error in found["error"].to_pylist()]
    assert reasons == [None, "not_found", "request_rejected", None]
    assert found["cached_tokens"].to_pylist() == [8, 0, 0, 8]
