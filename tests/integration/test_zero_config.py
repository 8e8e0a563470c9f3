"""Searching a folder of images in one command: every natural first guess, and what may go wrong."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.cli import terminal_images
from lookalike.cli.queries import Queries
from lookalike.cli.search import _Search
from lookalike.encoders.persistence import save_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ArtifactError, InputError, SourceError
from lookalike.gallery import ingest, on_demand
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.on_demand import index_on_demand, open_on_demand
from lookalike.gallery.sync import SyncReport
from lookalike.images import formats
from lookalike.sources import Item, open_source
from lookalike.types import Progress
from tests.integration.test_cli import CommandResult, lookalike, run

COLORS = {
    "red": (200, 30, 30),
    "green": (30, 180, 40),
    "blue": (30, 50, 200),
    "yellow": (220, 210, 40),
}


def picture(color: str, number: int = 0) -> Image.Image:
    """An image in shades of a color; each number another one."""
    noise = np.random.default_rng(number).integers(-25, 25, (48, 64, 3))
    pixels = np.clip(np.array(COLORS[color]) + noise, 0, 255).astype(np.uint8)
    pixels[8 : 12 + 4 * (number % 8)] //= 2
    return Image.fromarray(pixels)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of each test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LOOKALIKE_DATA", str(folder))
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with photographs in ``photos``, and ``query.png``, which is red."""
    folder = tmp_path / "home"
    for color in COLORS:
        (folder / "photos" / color).mkdir(parents=True)
        for number in range(4):
            picture(color, number).save(folder / "photos" / color / f"{number}.png")
    picture("red", 9).save(folder / "query.png")
    return folder


def paths(*arguments: object, cwd: Path) -> list[str]:
    """Run a search and return the paths of its results."""
    return run(*arguments, "--paths", cwd=cwd).splitlines()


def galleries(cache: Path) -> list[Path]:
    return sorted(cache.glob("galleries/*/*.gallery"))


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and modification time of everything in a folder.

    But for the time of a store's folder, where SQLite has an index of the log while it is open.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.name != "store"]
    facts = {str(path): path.lstat() for path in paths}
    return {name: (fact.st_size, fact.st_mtime_ns) for name, fact in facts.items()}


def test_a_folder_is_searched_in_one_command(home: Path, cache: Path) -> None:
    before = state(home)
    done = lookalike("search", "photos", "query.png", "-k", "4", cwd=home)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "query.png: 4 results, cosine"
    assert lines[1].split() == ["rank", "distance", "label", "path"]
    assert [line.split()[-1].rpartition("/")[0] for line in lines[3:]] == ["photos/red"] * 4
    assert "indexing 16 images for the first time; encoder: hog-fine+color" in done.stderr
    assert state(home) == before
    assert len(galleries(cache)) == 1
    assert run("photos", "query.png", "-k", "4", cwd=home) == done.stdout


def test_an_unchanged_folder_is_not_indexed_again(home: Path, cache: Path) -> None:
    first = lookalike("photos", "query.png", cwd=home)
    before = state(cache)
    again = lookalike("photos", "query.png", cwd=home)
    assert again.stdout == first.stdout
    assert again.stderr == ""
    assert state(cache) == before


def test_a_folder_alone_is_indexed_and_says_what_to_type_next(home: Path) -> None:
    done = lookalike("photos", cwd=home)
    assert done.returncode == 0, done.stderr
    first, *following = done.stdout.splitlines()
    assert first.startswith("photos: 16 images, encoder hog-fine+color; 16 added, ")
    command = following[0].removeprefix("next: lookalike ").split()
    assert len(paths(*command, cwd=home)) == 7
    assert following[1].strip() == 'lookalike photos "words"'
    assert "; up to date" in run("search", "photos", cwd=home)
    assert paths("photos", "query.png", cwd=home)


def test_words_find_names_without_an_encoder_of_text(home: Path) -> None:
    picture("green", 7).save(home / "photos" / "red-bicycle.png")
    done = lookalike("photos", "red bicycle", "--paths", cwd=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "photos/red-bicycle.png"
    assert "note: " in done.stderr
    assert paths("photos", "bicycle", cwd=home) == ["photos/red-bicycle.png"]
    table = run("photos", "bicycle", cwd=home).splitlines()
    assert table[0] == "bicycle: 1 result, keywords"
    assert table[1].split() == ["rank", "path"]
    assert table[-1].split() == ["1", "photos/red-bicycle.png"]
    (row,) = csv.DictReader(run("photos", "bicycle", "--csv", cwd=home).splitlines())
    assert (row["path"], row["distance"], row["similarity"]) == ("photos/red-bicycle.png", "", "")
    long = lookalike("photos", " ".join(f"{number}{'w' * 99}" for number in range(99)), cwd=home)
    assert (long.returncode, "and 10 more words" in long.stderr) == (0, True), long.stderr
    assert max(map(len, (long.stdout + long.stderr).splitlines())) < 800


def test_the_query_itself_is_left_out(home: Path) -> None:
    own = "photos/red/2.png"
    shutil.copy(home / own, home / "photos" / "blue" / "copy.png")
    (home / "link.png").symlink_to(home / own)
    for query in (own, "./photos/../photos/red/2.png", home / own, "link.png"):
        results = paths("photos", query, "-k", "3", cwd=home)
        assert len(results) == 3
        assert own not in results
        assert results[0] == "photos/blue/copy.png"
    kept = paths("photos", own, "-k", "3", "--include-self", cwd=home)
    assert set(kept[:2]) == {own, "photos/blue/copy.png"}
    hits = json.loads(run("search", "photos", own, "--json", cwd=home))["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5, 6, 7]


def test_links_to_the_query_are_left_out_too(home: Path) -> None:
    own = "photos/red/2.png"
    (home / "photos" / "blue" / "link.png").symlink_to(home / own)
    (home / "all").symlink_to("photos")
    for query in (own, "all/red/2.png", "all/blue/link.png"):
        results = paths("all", query, "-k", "20", cwd=home)
        assert len(results) == 15
        assert {"all/red/2.png", "all/blue/link.png"}.isdisjoint(results)


def test_galleries_leave_out_the_query_too(home: Path) -> None:
    run("index", "p.gallery", "photos", "--encoder", "color", cwd=home)
    own = home / "photos" / "red" / "2.png"
    assert str(own) not in paths("p.gallery", own, cwd=home)
    assert str(own) in paths("p.gallery", own, "--include-self", cwd=home)


def test_a_folder_with_one_image(home: Path) -> None:
    (home / "one").mkdir()
    shutil.copy(home / "query.png", home / "one" / "only.png")
    assert paths("one", "query.png", cwd=home) == ["one/only.png"]
    done = lookalike("one", "one/only.png", cwd=home)
    assert done.returncode == 0
    assert "one/only.png: 0 results" in done.stdout
    assert "the only result is the query itself; --include-self shows it" in done.stderr


def test_the_gallery_follows_its_folder(home: Path) -> None:
    photos = home / "photos"
    assert "photos/red/new.png" not in paths("photos", "query.png", cwd=home)
    shutil.copy(home / "query.png", photos / "red" / "new.png")
    assert paths("photos", "query.png", cwd=home)[0] == "photos/red/new.png"
    picture("blue", 5).save(photos / "red" / "new.png")
    assert paths("photos", "query.png", "-k", "5", cwd=home)[-1] != "photos/red/new.png"
    shutil.move(photos / "red" / "new.png", photos / "blue" / "moved.png")
    done = lookalike("photos", "query.png", cwd=home)
    assert "1 moved" in done.stderr
    for color in ("green", "blue", "yellow"):
        shutil.rmtree(photos / color)
    left = paths("photos", "query.png", "-k", "99", cwd=home)
    assert sorted(left) == [f"photos/red/{number}.png" for number in range(4)]


def test_an_emptied_folder_costs_no_index(home: Path, cache: Path) -> None:
    run("photos", cwd=home)
    (home / "photos").rename(home / "away")
    (home / "photos").mkdir()
    done = lookalike("photos", "query.png", cwd=home)
    assert done.returncode == 2
    assert "the folder has no image files" in done.stderr
    (home / "photos").rmdir()
    (home / "away").rename(home / "photos")
    assert "; up to date" in run("photos", cwd=home)
    assert len(galleries(cache)) == 1


def test_one_gallery_for_a_folder_and_encoder(home: Path, cache: Path) -> None:
    (home / "alias").symlink_to(home / "photos")
    run("photos", cwd=home)
    for folder in ("alias", "photos/", home / "photos"):
        assert "; up to date" in run(folder, cwd=home)
    assert paths("alias", "query.png", cwd=home)[0].startswith("alias/red/")
    assert "; up to date" in run("search", "photos", "--encoder", "hog-fine+color", cwd=home)
    assert len(galleries(cache)) == 1
    run("search", "photos", "--encoder", "color", cwd=home)
    assert len(galleries(cache)) == 2
    (home / "photos" / "sub" / "photos").mkdir(parents=True)
    picture("red").save(home / "photos" / "sub" / "photos" / "a.png")
    run(home / "photos" / "sub" / "photos", cwd=home)
    assert len(galleries(cache)) == 3


def test_the_default_encoder_is_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("photos", cwd=home)
    monkeypatch.setattr(
        "lookalike.gallery.encoder_choice.default_encoder", lambda _: ("pixels", "other")
    )
    assert "encoder hog-fine+color" in run("photos", cwd=home)


def test_a_saved_encoder_is_known_by_its_file(home: Path, cache: Path) -> None:
    folder = home / "my.encoder"
    save_encoder(open_encoder("color", home / "photos"), folder)
    assert "16 added" in run("search", "photos", "--encoder", "my.encoder", cwd=home)
    for name in ("./my.encoder", folder):
        assert "; up to date" in run("search", "photos", "--encoder", name, cwd=home)
    assert "16 added" in run("photos", cwd=home)
    assert "; up to date" in run("photos", cwd=home)
    shutil.rmtree(folder)
    save_encoder(open_encoder("texture", home / "photos"), folder)
    done = run("search", "photos", "--encoder", "my.encoder", cwd=home)
    assert "encoder texture; 16 added" in done
    assert len(galleries(cache)) == 3


def test_a_network_is_known_by_its_files(home: Path) -> None:
    model = files("lookalike.encoders").joinpath("untrained.onnx").read_bytes()
    (home / "net.onnx").write_bytes(model)
    (home / "net.json").write_text('{"size": 28, "channels": 1}')
    command = ("search", "photos", "--encoder", "onnx:net.onnx,pooling=avg")
    assert "16 added" in run(*command, cwd=home)
    (home / "results.json").write_text("{}")
    assert "; up to date" in run(*command, cwd=home)
    (home / "net.json").write_text('{"size": 28, "channels": 1, "mean": 0.5}')
    assert "16 added" in run(*command, cwd=home)
    folder = home / "model"
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(model)
    config = {"image_processor_type": "ViTImageProcessor", "size": 28, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    command = ("search", "photos", "--encoder", "onnx:model,pooling=avg")
    assert "16 added" in run(*command, cwd=home)
    assert "; up to date" in run(*command, cwd=home)
    os.utime(folder / "onnx" / "model.onnx", ns=(0, 0))
    assert "16 added" in run(*command, cwd=home)


def test_images_that_fail_are_listed(home: Path) -> None:
    (home / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    for _ in range(2):
        done = lookalike("photos", "query.png", cwd=home)
        assert done.returncode == 1
        assert "7 results" in done.stdout
        assert re.search(r"failed: .*photos/broken\.png: ", done.stderr)
    (home / "photos" / "broken.png").unlink()
    assert lookalike("photos", "query.png", cwd=home).returncode == 0


def test_a_file_that_fails_is_read_again_only_once_it_has_changed(home: Path, cache: Path) -> None:
    broken = home / "photos" / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    tasks: list[str] = []

    def search() -> tuple[list[str], SyncReport]:
        tasks.clear()
        report = index_on_demand(home / "photos", progress=lambda p: tasks.append(p.task)).report
        return tasks, report

    _, first = search()
    again, report = search()
    assert "index" not in again
    assert report.failed == first.failed
    assert (len(report.failed), report.unchanged) == (1, 16)
    broken.chmod(0o600)
    changed, report = search()
    assert "index" in changed
    assert report.failed == first.failed


@pytest.mark.parametrize(
    "option", [("-k", "0"), ("--where", "year >"), ("--rerank", "x"), ("--metric", "x")]
)
def test_options_are_checked_before_a_folder_is_indexed(
    home: Path, cache: Path, option: tuple[str, str]
) -> None:
    done = lookalike("photos", "query.png", *option, cwd=home)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not (cache / "galleries").exists()


def test_an_interrupted_first_index_is_resumed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "BATCH_IMAGES", 4)
    monkeypatch.setattr(ingest.ThreadRunner, "chunk_size", 2)

    def interrupt(progress: Progress) -> None:
        if progress.task == "index" and progress.done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_on_demand(home / "photos", progress=interrupt)
    report = index_on_demand(home / "photos", progress=False).report
    assert report.unchanged >= 4
    assert report.added == 16 - report.unchanged


def test_ctrl_c_says_how_to_go_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(on_demand, "open_source", interrupted)
    done = lookalike("photos", "query.png", cwd=home)
    assert done.returncode == 130
    assert done.stderr.startswith("interrupted; run the same command again")


def test_ctrl_c_keeps_the_results_so_far(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("photos", cwd=home)
    search = Gallery.search
    calls = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return search(*arguments, **options)

    monkeypatch.setattr(Gallery, "search", interrupted)
    monkeypatch.setattr(sys.modules["lookalike.cli.search"], "_BATCH", 5)
    done = lookalike("photos", "photos", "--json", cwd=home)
    assert done.returncode == 130
    assert len(done.stdout.splitlines()) == 5
    assert done.stderr.startswith("interrupted after 5 queries; ")


def test_two_processes_at_once(home: Path, cache: Path) -> None:
    command = [sys.executable, "-m", "lookalike", "photos", "query.png", "--paths"]
    both = [
        subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    results = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert len(results[0][0].splitlines()) == 7
    assert len(galleries(cache)) == 1
    assert len(open_on_demand(home / "photos", progress=False)) == 16


def test_a_folder_that_cannot_be_written(home: Path, cache: Path) -> None:
    for path in (home / "photos", *(home / "photos").iterdir()):
        path.chmod(0o555)
    try:
        assert paths("photos", "query.png", cwd=home)[0].startswith("photos/red/")
    finally:
        for path in (home / "photos", *(home / "photos").iterdir()):
            path.chmod(0o755)


def test_a_cache_that_cannot_be_written(home: Path, cache: Path) -> None:
    cache.write_text("a file")
    done = lookalike("photos", "query.png", cwd=home)
    assert done.returncode == 2
    assert "the cache cannot be written" in done.stderr
    assert "set LOOKALIKE_DATA to a folder" in done.stderr
    assert "lookalike index photos.gallery " in done.stderr


def test_a_broken_cached_gallery_says_what_to_delete(home: Path, cache: Path) -> None:
    run("photos", cwd=home)
    (gallery,) = galleries(cache)
    (gallery / "gallery.json").write_text("{")
    done = lookalike("photos", "query.png", cwd=home)
    assert done.returncode == 2
    assert f"to make it again, delete {gallery.parent}" in done.stderr
    shutil.rmtree(gallery.parent)
    assert paths("photos", "query.png", cwd=home)


def test_an_encoder_that_is_none_costs_no_cached_gallery(home: Path, cache: Path) -> None:
    wrong: Any = 3
    with pytest.raises(InputError, match="encoder is a int; pass a name"):
        index_on_demand(home / "photos", encoder=wrong)
    with pytest.raises(ArtifactError, match="not an encoder") as error:
        index_on_demand(home / "photos", encoder=home / "photos")
    assert "delete" not in str(error.value)
    assert galleries(cache) == []


MISTAKES: dict[str, tuple[Sequence[str], str]] = {
    "missing file": (["photos", "missing.jpg"], "missing.jpg: there is no such file"),
    "missing file below": (["photos", "a/missing"], "a/missing: there is no such file"),
    "no such page": (["photos", "query.png#7"], "has 1 page; there is no page 7, counted from 1"),
    "inside the folder": (["photos", "red/1.png"], "did you mean photos/red/1.png?"),
    "swapped": (
        ["search", "query.png", "photos"],
        "comes first: lookalike search photos query.png",
    ),
    "image alone": (["query.png"], "comes first: lookalike search FOLDER query.png"),
    "typo of a folder": (
        ["fotos", "q.png"],
        "no such command or folder fotos; did you mean photos",
    ),
    "a folder that is not there": (
        ["pictures", "q.png"],
        "no such command or folder pictures; to search a folder of images: lookalike FOLDER QUERY",
    ),
    "no near command": (["chords"], "no such command or folder chords; to search a folder"),
    "option before the folder": (
        ["-k", "3", "photos", "query.png"],
        "no such option -k; options follow the command or folder",
    ),
    "typo of a command": (["serach"], "no such command or folder serach; did you mean search?"),
    "no such folder": (["search", "nowhere", "query.png"], "nowhere"),
    "a file for results": (
        ["photos", "--csv", "out.csv"],
        "out.csv: there is no such file; to save the results in it: > out.csv",
    ),
    "ID without its source": (["photos", "--id", "red/1.png"], "did you mean 'photos:red/1.png'?"),
    "typo of an ID": (["photos", "--id", "photos:red/1.pgn"], "did you mean 'photos:red/1.png'?"),
    "empty folder": (["empty"], "empty: the folder has no image files"),
    "a text": (["notes.txt", "query.png"], "notes.txt: not a gallery"),
    "a manifest": (["list.csv", "query.png"], "lookalike index list.gallery list.csv"),
    "empty query": (["photos", ""], "'': there is no such file"),
    "blank query": (["photos", "  "], "'  ': there is no such file"),
    "long query": (["photos", "a/" * 3000], "…"),
    "signs": (["photos", "😀", "--encoder", "color"], "--text '😀' has no word to search for"),
    "no words": (["photos", "--text", "", "--encoder", "color"], "--text '' has no word to"),
    "empty queries": (["photos", "empty"], "empty: the folder has no image files"),
    "gallery as a query": (["photos", "p.gallery"], "p.gallery: is a gallery, no query"),
    "gallery alone": (["p.gallery"], "lookalike search p.gallery query.jpg"),
    "encoder of a gallery": (
        ["p.gallery", "query.png", "--encoder", "hog"],
        "--encoder hog is for folders of images; p.gallery is a gallery of encoder 'color'",
    ),
    "no encoder": (["photos", "query.png", "--encoder", "colour"], "did you mean 'color'"),
    "two formats": (["photos", "query.png", "--json", "--csv"], "--csv and --json exclude"),
    "format and NUL": (["photos", "query.png", "--json", "-0"], "--null and --json exclude"),
    "preview": (["photos", "query.png", "--paths", "--preview", "kitty"], "--preview exclude"),
    "unknown preview": (["photos", "query.png", "--preview", "kity"], "did you mean 'kitty'"),
    "copy and link": (
        ["photos", "query.png", "--copy-to", "a", "--link-to", "b"],
        "--copy-to and --link-to exclude each other",
    ),
    "copy to a file": (
        ["photos", "query.png", "--copy-to", "list.csv"],
        "is a file; name a folder",
    ),
    "sheet of no format": (
        ["photos", "query.png", "--image", "sheet.txt"],
        "sheet.txt: a contact sheet is one of .png",
    ),
    "no query to list": (["photos", "--csv"], "no query: pass an image, --text"),
    "no query to copy": (["photos", "--copy-to", "out"], "no query: pass an image, --text"),
    "no query to go on with": (["photos", "--offset", "7"], "no query: pass an image"),
    "files of a folder of images": (
        ["doctor", "photos"],
        "photos: is a folder of images, not a gallery",
    ),
    "two of stdin": (["photos", "-", "-"], "stdin has one image"),
    "private URL": (["photos", "http://127.0.0.1:9/a.png"], "--allow-private-urls"),
    "folder like a command": (
        ["index"],
        "missing argument GALLERY; to search the folder of that name",
    ),
}


@pytest.fixture
def mistaken(home: Path) -> Path:
    for name in ("empty", "index"):
        (home / name).mkdir()
    (home / "notes.txt").write_text("no image")
    (home / "list.csv").write_text("path\nquery.png\n")
    run("index", "p.gallery", "photos", "--encoder", "color", cwd=home)
    return home


def test_mistakes_lead_on(mistaken: Path) -> None:
    for name, (arguments, expected) in MISTAKES.items():
        done = lookalike(*arguments, cwd=mistaken)
        assert done.returncode == 2, (name, done)
        assert expected in done.stderr, (name, done.stderr)
        assert "Traceback" not in done.stderr
        errors = [line for line in done.stderr.splitlines() if "error: " in line]
        assert len(errors) == 1, (name, done.stderr)
        assert done.stdout == "", name


def test_a_folder_called_like_a_command(home: Path) -> None:
    (home / "photos").rename(home / "search")
    assert "missing argument GALLERY" in lookalike("search", cwd=home).stderr
    assert paths("./search", "query.png", cwd=home)[0].startswith("./search/red/")
    assert paths("search", "search", "query.png", cwd=home)[0].startswith("search/red/")


def piped(data: bytes, *arguments: object, cwd: Path) -> CommandResult:
    """Run the command line with bytes on stdin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return lookalike(*arguments, cwd=cwd)


def test_an_image_on_stdin(home: Path) -> None:
    done = piped((home / "query.png").read_bytes(), "photos", "-", "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["query"] == "stdin"
    assert result["hits"][0]["id"].startswith("photos:red/")
    for data, message in ((b"", "stdin is empty"), (b"no image", "stdin: ")):
        done = piped(data, "photos", "-", cwd=home)
        assert done.returncode == 2
        assert message in done.stderr


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@pytest.fixture
def server(home: Path) -> Iterator[str]:
    def handler(*arguments: object) -> _Handler:
        return _Handler(*arguments, directory=str(home))  # type: ignore[arg-type]

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{service.server_address[1]}"
        service.shutdown()
        thread.join()


def test_a_url(home: Path, server: str) -> None:
    url = f"{server}/query.png"
    results = paths("photos", url, "--allow-private-urls", cwd=home)
    assert results[0].startswith("photos/red/")
    missing = lookalike("photos", f"{server}/none.png", "--allow-private-urls", cwd=home)
    assert missing.returncode == 2
    assert "none.png: " in missing.stderr


def test_a_folder_of_queries(home: Path) -> None:
    queries = home / "queries"
    for color in COLORS:
        (queries / color).mkdir(parents=True)
        picture(color, 11).save(queries / color / "q.png")
    (queries / "red" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = lookalike("photos", "queries", "query.png", "-k", "2", "--csv", cwd=home)
    assert done.returncode == 1
    assert "failed: " in done.stderr
    assert "damaged.png" in done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(rows[0]) == ["query", "rank", "id", "path", "distance", "similarity", "label"]
    assert len(rows) == 10
    for row in rows[:8]:
        assert Path(row["query"]).parent.name == row["label"] == Path(row["path"]).parent.name
        assert float(row["similarity"]) == pytest.approx(1 - float(row["distance"]))
    assert [row["query"] for row in rows[8:]] == ["query.png"] * 2
    lines = run("photos", "photos", "--json", cwd=home).splitlines()
    assert len(lines) == 16


class _Recorded:
    """A source that records which of its items were opened."""

    def __init__(self, folder: Path) -> None:
        self._source = open_source(folder, progress=False)
        self.opened: list[str] = []

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Item]:
        for item in self._source:
            self.opened.append(item.id)
            yield item


def test_results_stream(home: Path) -> None:
    many = home / "many"
    many.mkdir()
    for number in range(40):
        picture("red", number).save(many / f"{number:02}.png")
    source = _Recorded(many)
    gallery = open_on_demand(home / "photos", progress=False)
    search = _Search(gallery, {"k": 3, "offset": 0, "exact": False}, include_self=False)
    results = search.each(Queries([source], []), [], [], None)  # type: ignore[list-item]
    first = next(results)
    assert first.hits.query.endswith("00.png")
    assert len(source.opened) <= 20
    assert len(list(results)) == 39


def test_names_of_all_kinds(home: Path) -> None:
    folder = home / "odd names"
    folder.mkdir()
    names = [b"with space.png", b"new\nline.png", b"caf\xe9.png", "łódź.png".encode(), b"-x.png"]
    for number, name in enumerate(names):
        path = os.fsencode(folder) + b"/" + name
        with open(path, "wb") as file:  # noqa: PTH123 - bytes
            picture("red", number).save(file, "PNG")
    command = [sys.executable, "-m", "lookalike", "odd names", "query.png", "-0"]
    done = subprocess.run(command, cwd=home, capture_output=True, check=True, timeout=120)
    printed = done.stdout.split(b"\0")
    assert sorted(printed) == sorted([b"", *(b"odd names/" + name for name in names)])
    table = lookalike("odd names", "query.png", cwd=home)
    assert table.returncode == 0
    assert "new\\nline.png" in table.stdout
    assert "caf\\xe9.png" in table.stdout
    target = home / "out"
    run("odd names", "query.png", "--copy-to", target, cwd=home)
    copies = sorted(os.fsencode(copy.name).partition(b"-")[2] for copy in target.iterdir())
    assert copies == sorted(names)


def test_results_are_copied(home: Path) -> None:
    done = lookalike("photos", "query.png", "-k", "3", "--copy-to", "out", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "copied: 3 files into out" in done.stderr
    expected = paths("photos", "query.png", "-k", "3", cwd=home)
    copies = sorted((home / "out").iterdir())
    assert [copy.name for copy in copies] == [
        f"{rank:02}-{Path(path).name}" for rank, path in enumerate(expected, 1)
    ]
    for copy, path in zip(copies, expected, strict=True):
        assert copy.read_bytes() == (home / path).read_bytes()
    copies[0].write_text("mine")
    again = lookalike("photos", "query.png", "-k", "3", "--copy-to", "out", cwd=home)
    assert again.returncode == 1
    assert "copied: 0 files" in again.stderr
    first = "e.g. out/" + copies[0].name
    assert f"not copied: 3 files that already exist, {first}; overwrite: --force" in again.stderr
    assert copies[0].read_text() == "mine"
    run("photos", "query.png", "-k", "3", "--copy-to", "out", "--force", cwd=home)
    assert copies[0].read_bytes() == (home / expected[0]).read_bytes()


def test_copies_do_not_become_results_by_mistake(home: Path) -> None:
    before = state(home)
    for folder in ("photos", "photos/similar", "photos/red/../x"):
        done = lookalike("photos", "query.png", "--copy-to", folder, cwd=home)
        assert done.returncode == 2
        assert f"{folder}: is in the folder that is searched" in done.stderr
        assert "--force" in done.stderr
        assert done.stdout == ""
    done = lookalike(".", "query.png", "--image", "hits.png", cwd=home)
    assert "hits.png: is in the folder that is searched" in done.stderr
    assert state(home) == before
    run("photos", "query.png", "-k", "2", "--copy-to", "photos/similar", "--force", cwd=home)
    assert len(list((home / "photos" / "similar").iterdir())) == 2


def test_photographs_that_are_not_read_are_said_each_time(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "photos" / "notes.txt").write_text("no image")
    (home / "photos" / "IMG_1.HEIC").write_bytes(b"only the suffix counts")
    monkeypatch.setattr(formats, "_is_installed", lambda _: False)
    first = lookalike("photos", "query.png", cwd=home)
    assert "not an image" in first.stderr
    again = lookalike("photos", "query.png", cwd=home)
    assert again.returncode == 0
    assert " ".join(again.stderr.split()) == (
        "skipped: 1 unsupported: heic e.g. IMG_1.HEIC pip install 'lookalike[heif]'"
    )


def test_a_table_says_what_orders_it(home: Path) -> None:
    fused = run("photos", "query.png", "--keywords", "blue", cwd=home).splitlines()
    assert fused[0] == "query.png: 7 results, cosine and keywords"
    reranked = run("photos", "query.png", "-k", "16", "--rerank", "k-reciprocal", cwd=home)
    distances = [float(line.split()[1]) for line in reranked.splitlines()[3:]]
    assert distances != sorted(distances)
    assert reranked.splitlines()[0] == "query.png: 16 results, cosine, re-ranked"


def test_words_without_quotes(home: Path) -> None:
    done = lookalike("photos", "red", "blue", cwd=home)
    assert 'note: each word is a query of its own; one query: "red blue"' in done.stderr
    for queries in (["red"], ["red blue", "green"], ["red", "query.png"]):
        assert "each word" not in lookalike("photos", *queries, cwd=home).stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size")
def test_a_copy_that_does_not_fit_is_removed(home: Path) -> None:
    run("photos", "--encoder", "color", cwd=home)
    search = "-m lookalike photos query.png --encoder color -k 3 --copy-to out"
    done = subprocess.run(
        ["sh", "-c", f"ulimit -f 2; {sys.executable} {search}"],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "copied: 0 files into out" in done.stderr
    assert "File too large" in done.stderr
    assert list((home / "out").iterdir()) == []


def test_results_of_several_queries_are_linked(home: Path) -> None:
    arguments = ("photos", "query.png", "photos/blue/1.png", "-k", "2", "--link-to", "out")
    assert lookalike(*arguments, cwd=home).returncode == 0
    assert sorted(path.name for path in (home / "out").iterdir()) == ["001-query.png", "002-1.png"]
    for link in (home / "out").glob("*/*"):
        assert link.is_symlink()
        assert link.resolve().is_relative_to(home / "photos")
    run(*arguments, "--force", cwd=home)
    assert len(list((home / "out").glob("*/*"))) == 4
    assert len(list((home / "photos").rglob("*.png"))) == 16


def test_what_has_no_file_cannot_be_copied(home: Path) -> None:
    run("index", "d.gallery", "dataset:digits/test", "--encoder", "pixels", cwd=home)
    arguments = ("d.gallery", "dataset:digits/test#3", "-k", "2", "--copy-to", "out")
    done = lookalike(*arguments, cwd=home)
    assert done.returncode == 1
    assert "2 results" in done.stdout
    assert done.stderr.count("not copied: ") == 2


def test_a_result_is_never_replaced_by_itself(home: Path) -> None:
    photos = home / "flat"
    photos.mkdir()
    picture("red").save(photos / "01-01-a.png")
    arguments = ("flat", "query.png", "--link-to", "flat", "--force")
    assert lookalike(*arguments, cwd=home).returncode == 0
    again = lookalike(*arguments, cwd=home)
    assert (photos / "01-01-a.png").is_file()
    assert not (photos / "01-01-a.png").is_symlink(), again.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the viewer of Linux")
def test_the_viewer_gets_a_contact_sheet(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = home / "tools"
    tools.mkdir()
    viewer = tools / "xdg-open"
    viewer.write_text(
        f'#!/bin/sh\nprintf "%s" "$1" > {home}/opened.part\nmv {home}/opened.part {home}/opened\n'
    )
    viewer.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/bin:/usr/bin")
    run("photos", "query.png", "--image", "a sheet.png", "--open", cwd=home)
    deadline = threading.Event()
    for _ in range(300):
        if (home / "opened").exists():
            break
        deadline.wait(0.02)
    assert (home / "opened").read_text() == str(home / "a sheet.png")
    with Image.open(home / "a sheet.png") as sheet:
        assert sheet.width > 100
    monkeypatch.setenv("PATH", "/nowhere")
    done = lookalike("photos", "query.png", "--image", "b.png", "--open", cwd=home)
    assert done.returncode == 2
    assert "xdg-open is not installed" in done.stderr
    assert "7 results" in done.stdout


def in_terminal(*arguments: str, cwd: Path, **variables: str) -> bytes:
    """Run the command line on a pseudo-terminal and return what it writes there."""
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    names = ("TMUX", "KITTY_WINDOW_ID", "TERM_PROGRAM", "LC_TERMINAL", "KONSOLE_VERSION")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    process = subprocess.Popen(
        [sys.executable, "-m", "lookalike", *arguments],
        cwd=cwd,
        env={**environment, "COLUMNS": "80", **variables},
        stdin=follower,
        stdout=follower,
        stderr=subprocess.PIPE,
    )
    os.close(follower)
    written = b""
    while True:
        try:
            piece = os.read(leader, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        written += piece
    os.close(leader)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return written


def test_previews_in_a_terminal_that_shows_images(home: Path) -> None:
    run("photos", cwd=home)
    command = ("photos", "query.png", "-k", "3")
    written = in_terminal(*command, cwd=home, TERM="xterm-kitty")
    pieces = re.findall(rb"\x1b_G[^;]*;([^\x1b]*)\x1b\\", written)
    with Image.open(io.BytesIO(base64.b64decode(b"".join(pieces)))) as strip:
        assert strip.height == 7 * 16
        assert strip.width > strip.height
        red, green, blue = np.asarray(strip.convert("RGB"))[:, :100].mean(axis=(0, 1))
    assert red > 2 * max(green, blue)
    assert b"photos/red/" in written
    plain = in_terminal(*command, cwd=home, TERM="xterm-256color")
    assert b"photos/red/" in plain
    assert b"\x1b_G" not in plain


def test_no_previews_in_pipes_and_other_terminals(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-kitty")
    monkeypatch.setenv("KITTY_WINDOW_ID", "1")
    assert "\x1b" not in run("photos", "query.png", cwd=home)
    forced = run("photos", "query.png", "--preview", "iterm2", cwd=home)
    assert "\x1b]1337;File=inline=1;" in forced
    assert "\x1b" not in run("photos", "query.png", "--preview", "off", cwd=home)


TERMINALS: list[tuple[dict[str, str], str | None]] = [
    ({"TERM": "xterm-kitty"}, "kitty"),
    ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
    ({"TERM": "xterm-ghostty"}, "kitty"),
    ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
    ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
    ({"TERM": "foot"}, "sixel"),
    ({"TERM": "xterm-256color"}, None),
    ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
    ({"TERM": "screen", "TERM_PROGRAM": "iTerm.app"}, None),
    ({"TERM": "dumb", "TERM_PROGRAM": "iTerm.app"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("environment", "protocol"), TERMINALS)
def test_terminals_are_recognized(environment: dict[str, str], protocol: str | None) -> None:
    assert terminal_images._protocol_of(environment) == protocol


def sixel_pixels(text: str) -> np.ndarray:
    """Return the image of sixel data, read as a terminal does: ``(H, W, 3)`` percent."""
    head = re.match(r'\x1bPq"1;1;(\d+);(\d+)', text)
    assert head is not None
    width, height = int(head[1]), int(head[2])
    image = np.full((-(-height // 6) * 6, width, 3), -1)
    palette: dict[int, tuple[int, ...]] = {}
    x = y = color = 0
    for token in re.findall(r"#\d+;2;\d+;\d+;\d+|#\d+|!\d+.|[$-]|[?-~]", text[head.end() : -2]):
        if token == "$":
            x = 0
        elif token == "-":
            x, y = 0, y + 6
        elif token.startswith("#"):
            number, *values = map(int, token[1:].split(";"))
            if values:
                palette[number] = tuple(values[1:])
            else:
                color = number
        else:
            count, bits = (int(token[1:-1]), token[-1]) if token[0] == "!" else (1, token)
            for row in range(6):
                if (ord(bits) - 63) >> row & 1:
                    image[y + row, x : x + count] = palette[color]
            x += count
    return image[:height]


def test_sixels_are_the_image(capsys: pytest.CaptureFixture[str]) -> None:
    images = [np.asarray(picture(color)) for color in COLORS]
    terminal_images.print_images([*images, None], "sixel")
    pixels = sixel_pixels(capsys.readouterr().out.rstrip("\n"))
    assert pixels.min() >= 0
    expected = np.asarray(terminal_images._strip([*images, None], *pixels.shape[:2]))
    assert np.abs(pixels - expected * (100 / 255)).mean() < 3


def test_previews_fit_the_terminal() -> None:
    images = [np.asarray(picture("red"))] * 100
    strip = terminal_images._strip(images, 112, 640)
    assert strip.height == 112
    assert 500 < strip.width <= 640


def test_the_library_opens_folders_too(home: Path, cache: Path) -> None:
    gallery = open_on_demand(home / "photos", encoder="color", progress=False)
    assert len(gallery) == 16
    assert gallery.encoder.name == "color"
    assert open_on_demand(home / "photos", encoder="color", progress=False).state == gallery.state
    assert on_demand.cached_galleries(home / "photos") == galleries(cache)
    own = open_on_demand(home / "photos", encoder=gallery.encoder, progress=False)
    assert own.fingerprint == gallery.fingerprint
    with pytest.raises(SourceError, match="there is no such folder"):
        open_on_demand(home / "nowhere")
    with pytest.raises(SourceError, match="is an image, not a gallery"):
        open_on_demand(home / "query.png")


def test_a_table_of_metadata_is_followed(home: Path) -> None:
    table = home / "photos" / "metadata.csv"
    table.write_text("path,tag\nred/1.png,old\n")
    found = ("search", "photos", "--keywords", "old", "--json")
    assert json.loads(run(*found, cwd=home))["hits"][0]["metadata"]["tag"] == "old"
    table.write_text("path,tag\nred/2.png,old\n")
    assert json.loads(run(*found, cwd=home))["hits"][0]["id"] == "photos:red/2.png"
    before = state(home)
    assert "; up to date" in run("photos", cwd=home)
    assert state(home) == before


def test_a_cached_gallery_of_an_older_format_is_made_again(home: Path, cache: Path) -> None:
    first = lookalike("photos", "query.png", cwd=home)
    [gallery] = cache.rglob("*.gallery")
    shutil.rmtree(gallery / "store")
    (gallery / "store" / "_versions").mkdir(parents=True)
    again = lookalike("photos", "query.png", cwd=home)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert "indexing" in again.stderr
    assert (gallery / "store" / "rows.db").is_file()
    assert sorted(each.name for each in gallery.parent.glob("*.gallery")) == [gallery.name]
