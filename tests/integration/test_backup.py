"""Backup and restore of a gallery that a service writes, with the commands of docs/serving.md."""

from __future__ import annotations

import re
import shlex
import shutil
import threading
from pathlib import Path

import pytest

from lookalike.errors import ArtifactError
from lookalike.gallery.copy import copy
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.uploads import remove
from tests.integration.test_audit import gallery as gallery_path
from tests.integration.test_cli import lookalike
from tests.integration.test_running import png
from tests.raw_http import eventually
from tests.serving import serving

__all__ = ["gallery_path"]  # a fixture

DOCS = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


def commands(heading: str) -> list[list[str]]:
    """Return the words of the commands in the first shell block after some bold words."""
    section = DOCS.partition("## Backup, restore and upgrade")[2].partition(f"**{heading}**")[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [shlex.split(line, comments=True) for line in block[1].splitlines()]


def run(words: list[str]) -> str:
    if words[0] == "mv":
        Path(words[1]).rename(words[2])
        return ""
    assert words[0] == "lookalike"
    done = lookalike(*words[1:])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def photos(gallery_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gallery ``photos.gallery`` in the current folder."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(gallery_path, tmp_path / "photos.gallery")


@pytest.mark.slow
def test_a_gallery_is_backed_up_while_it_is_written_and_restored(photos: Path) -> None:
    first, update, check = commands("Back up")
    with serving({"photos": Gallery.open(photos)}) as served:
        path = "/v1/galleries/photos/item"
        stop, statuses = threading.Event(), []

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                response, _ = served.request("PUT", f"{path}?id=n{number % 7}", png(number % 200))
                statuses.append(response.status)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert eventually(lambda: len(statuses) > 3)
            run(first)
        finally:
            stop.set()
            writer.join(60)
        assert set(statuses) <= {200, 201}
        assert served.request("DELETE", f"{path}?id=n1")[0].status in (200, 204)
        served.request("PUT", f"{path}?id=last", png(9))
        run(update)
        assert "BROKEN" not in run(check)
        before = served.client().gallery("photos")
        rows = sorted(before)
        image = served.request("GET", f"{path}/image?id=api:last")[1]

        move, restore = commands("Restore")
        run(move)
        assert served.request("GET", f"{path}?id=api:last")[0].status == 503
        shutil.rmtree("damaged.gallery")
        run(restore)
        after = served.client().gallery("photos")
        assert sorted(after) == rows
        assert served.request("GET", f"{path}/image?id=api:last")[1] == image
        assert served.request("PUT", f"{path}?id=next", png(3))[0].status == 201
    assert sorted(Gallery.open("backup.gallery").store.ids()) == rows


def files(gallery: str) -> list[str]:
    return sorted(each.name for each in (Path(gallery) / "images").glob("*"))


def test_a_copy_has_the_uploaded_images_of_its_rows(photos: Path) -> None:
    gallery = Gallery.open(photos)
    gallery.add([png(1), png(2), png(3)], ids=["a", "b", "c"])
    report = copy(photos, "b.gallery")
    assert (report.added, report.updated) == (4, 0)
    assert files("b.gallery") == files("photos.gallery") != []
    assert copy(photos, "b.gallery").unchanged == 4
    gallery.add([png(4)], ids=["a"])
    remove(gallery, "b")
    report = copy(photos, "b.gallery", allow_removals=True)
    assert (report.updated, report.removed, report.unchanged) == (1, 1, 2)
    shutil.rmtree(photos)
    copied = Gallery.open("b.gallery")
    assert copied["api:a"].image().shape == (200, 200, 3)
    assert copied.sources["api"].endswith("/b.gallery/images")


def test_a_copy_of_a_moved_gallery_has_its_images(photos: Path) -> None:
    Gallery.open(photos).add([png(1)], ids=["a"])
    photos.rename("moved.gallery")
    copy("moved.gallery", "b.gallery")
    shutil.rmtree("moved.gallery")
    assert Gallery.open("b.gallery")["api:a"].image().shape == (200, 200, 3)


def test_a_link_in_place_of_uploaded_images_is_not_followed(photos: Path, tmp_path: Path) -> None:
    Gallery.open(photos).add([png(1)], ids=["a"])
    (photos / "images").rename(tmp_path / "elsewhere")
    (photos / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="link"):
        copy(photos, "b.gallery")
    assert not Path("b.gallery/images").exists()
