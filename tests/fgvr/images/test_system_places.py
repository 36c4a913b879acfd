"""Links of a stranger's archive to the system's files, and what may be read all the same."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fgvr.config.data import ImageLimits, TableSource
from fgvr.images import read
from fgvr.images.read import ImageError, read_image_bytes
from fgvr.images.system_places import is_system_place, leads_to_system
from fgvr.schemas import Reason
from fgvr.sources import allowed_places
from fgvr.sources.table_file import read_table_file


def test_places_of_keys_and_of_the_system():
    named = (
        "/etc/passwd /proc/1/environ /run/secrets/a /var/run/secrets/b/token /home/me/.netrc /home/me/.ssh /me/.ssh/id "
        "/home/me/.ray/auth_token /root/.vault-token /home/me/.cache/huggingface/token /home/me/.config/gh/hosts.yml "
        "/Users/me/.my.cnf /nfs/home/me/.kaggle/kaggle.json /home/me/.bash_history /home/me/.local/share/keyrings/a "
        "/home/me/.cache/fgvr2/a /home/me/.cache/fgvr/.ssh/id /srv/app/.env /srv/app/.env.local /srv/.envrc"
    )
    assert all(map(is_system_place, [*named.split(), "/home/me/.config/gcloud/x.db", "/home/me/.git-credentials"]))
    photos = (
        "/run/media/me/CARD/a.jpg /home/me/etc/a.jpg /dev/shm/a.jpg /home/me/.cache/fgvr/a.jpg /data/.netrc.jpg "
        "/etcetera /home/.photos/a.jpg /data/.hidden/a.jpg /home/me/birds/.jay.jpg /data/.environment/a.jpg /rooted/.a "
        "/home/me/.cache/huggingface/hub/datasets--x/a.jpg /root/.keras/datasets/flowers/a.jpg /home/me/.fastai/data/a"
    )
    assert not any(map(is_system_place, photos.split()))


def test_hidden_files_of_ones_own_home_wherever_it_is(tmp_path: Path) -> None:
    home = tmp_path / "M\u00fcller & Co. (2)"
    home.mkdir()
    (tmp_path / "link").symlink_to(home)
    script = (
        "import sys, pyarrow as pa, pyarrow.compute as pc\n"
        "from fgvr.images.system_places import HIDDEN, is_system_place\n"
        "of_arrow = pc.match_substring_regex(pa.array(sys.argv[1:]), HIDDEN).to_pylist()\n"
        "print([*zip(map(is_system_place, sys.argv[1:]), of_arrow)])"
    )
    paths = [f"{home}/.token", f"{tmp_path}/link/.x/token", f"{home}/a.jpg", f"{tmp_path}/.token"]
    told = subprocess.run(
        [sys.executable, "-c", script, *paths],
        env={**os.environ, "HOME": str(tmp_path / "link")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ast.literal_eval(told.stdout) == [(True, True), (True, True), (False, False), (False, False)]


def test_a_link_beside_a_table_does_not_lead_to_the_system(tmp_path: Path) -> None:
    (tmp_path / "heron.jpg").symlink_to("/etc/hostname")
    (tmp_path / "more").symlink_to("/etc")
    (tmp_path / "list.csv").write_text("uri\nheron.jpg\nmore/hostname\n")
    chunks = read_table_file(TableSource(path=str(tmp_path / "list.csv")))
    uris = [row["uri"] for chunk in chunks for row in chunk.to_pylist()]
    for uri in uris:
        with pytest.raises(ImageError, match=r"a link to a file of the system.*allowed_roots") as caught:
            read_image_bytes(uri, ImageLimits())
        assert caught.value.reason is Reason.NOT_ALLOWED
        assert read_image_bytes(uri, ImageLimits(allowed_roots=("/etc",)))


def test_other_links_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (4, 4)).save(sink, "PNG")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.png").write_bytes(sink.getvalue())
    (tmp_path / "photos").symlink_to(tmp_path / "disk")
    assert read.read_image(str(tmp_path / "photos" / "a.png"), ImageLimits()).size == (4, 4)
    monkeypatch.setattr(
        allowed_places, "is_system_place", lambda _: True
    )  # a path that says where it leads was allowed
    assert not leads_to_system(tmp_path / "photos" / "a.png")
