import base64
import io

from PIL import Image

from fgvr.config.data import ImageLimits
from fgvr.report.pictures import SIDE, thumbnail


def test_a_square_jpeg_inside_a_uri(tmp_path):
    Image.new("RGB", (2000, 500), (200, 30, 30)).save(tmp_path / "wide.jpg")
    uri, problem = thumbnail(str(tmp_path / "wide.jpg"), ImageLimits())
    assert problem == ""
    kind, data = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (SIDE, SIDE)


def test_an_image_that_cannot_be_read(tmp_path):
    uri, problem = thumbnail(str(tmp_path / "gone.jpg"), ImageLimits())
    assert uri == ""
    assert problem.startswith("not_found")
