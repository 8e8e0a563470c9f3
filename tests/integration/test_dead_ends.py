"""Natural wrong inputs: each message names the command that leads on, and that command exists."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

import lookalike as la
from lookalike.cli import app
from lookalike.cli.commands import DefaultGroup, Group
from lookalike.encoders.persistence import save_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import TEXT_COMMAND, ArtifactError, SourceError
from lookalike.gallery.gallery import Gallery
from lookalike.sources import open_source
from lookalike.sources.path_kinds import PathKind, gallery_name, kind_of_path
from tests.integration.test_cli import lookalike

ROOT: Any = typer.main.get_command(app)
COMMAND = re.compile(rf"\blookalike (?:{'|'.join(ROOT.commands)})\b[^;\n`<()]*")


def parse(command: str) -> None:
    """Parse a command line as the program does, without running it."""
    arguments = shlex.split(command)[1:]
    context = ROOT.make_context("lookalike", list(arguments))
    name, found, rest = ROOT.resolve_command(context, list(arguments))
    while isinstance(found, Group):
        if isinstance(found, DefaultGroup) and not (rest and rest[0] in found.commands):
            break
        context = found.make_context(name, list(rest), parent=context)
        name, found, rest = found.resolve_command(context, list(rest))
    with contextlib.suppress(typer.Exit):  # after --help
        found.make_context(name, list(rest), parent=context)


def command_of(text: str) -> str:
    """Return a command without the words of the sentence after it."""
    end = re.search(r", | and | to | or |\. |\.$|: |$", text)
    assert end is not None
    return text[: end.start()].strip()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Images, a gallery of them, another without a source, an encoder, and files of other kinds."""
    home = tmp_path_factory.mktemp("home")
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
        for folder in ("photos", "holidays/2024"):
            (home / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(home / folder / f"{number}.png")
    images = open_source(home / "photos")
    encoder = open_encoder("color", images)
    save_encoder(encoder, home / "my.encoder")
    Gallery.create(home / "photos.gallery", encoder=encoder).sync(images)
    Gallery.create(home / "none.gallery", encoder=encoder)
    for folder in ("empty", "index", "My Photos"):
        (home / folder).mkdir()
    Image.fromarray(pixels).save(home / "My Photos" / "a b.png")
    Image.fromarray(pixels).save(home / "query.png")
    (home / "notes.txt").write_text("not an image")
    (home / "list.csv").write_text("path\nphotos/1.png\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOKALIKE_DATA", str(home / "cache"))
        yield home


INDEX = "lookalike index holidays.gallery holidays"
WITH_ENCODER = "lookalike index photos.gallery FOLDER --encoder my.encoder"

MISTAKES = {
    "info photos": "did you mean photos.gallery? create one: lookalike index photos.gallery photos",
    "info holidays": f"{INDEX}; or search without: lookalike search holidays QUERY",
    "evaluate holidays": INDEX,
    "label suggest holidays": INDEX,
    "export holidays out": INDEX,
    "copy holidays b.gallery": INDEX,
    "remove holidays --where a=1": INDEX,
    "info 'My Photos'": "lookalike index 'My Photos.gallery' 'My Photos'",
    "info foto.gallery": "did you mean photos.gallery?",
    "info none": "did you mean none.gallery?",
    "explore map xyzzy.gallery": "lookalike index xyzzy.gallery FOLDER",
    "search xyzzy.gallery query.png": "lookalike index xyzzy.gallery FOLDER",
    "serve xyzzy.gallery": "lookalike index xyzzy.gallery FOLDER",
    "info empty": "lookalike index photos.gallery FOLDER",
    "info query.png": "lookalike search FOLDER query.png",
    "info list.csv": "lookalike index list.gallery list.csv",
    "info notes.txt": "lookalike index photos.gallery FOLDER",
    "evaluate my.encoder": WITH_ENCODER,
    "search my.encoder query.png": WITH_ENCODER,
    "index photos new.gallery": "lookalike index new.gallery photos",
    "index photos photos.gallery": "lookalike index photos.gallery photos",
    "index list.csv new.gallery": "lookalike index new.gallery list.csv",
    "index photos holidays": "lookalike index photos.gallery photos",
    "index new.gallery photos.gallery": "lookalike index photos.gallery; or copy it: lookalike "
    "copy photos.gallery TARGET",
    "index new.gallery my.encoder": WITH_ENCODER,
    "index new.gallery fotos": "did you mean photos?",
    "index fotos": "did you mean photos?",
    "index xyzzy.gallery": "lookalike index xyzzy.gallery FOLDER",
    "index query.png": "lookalike search FOLDER query.png",
    "index my.encoder": WITH_ENCODER,
    "index empty": "lookalike doctor",
    "index ''": "'': not a gallery (there is no such folder)",
    "search '' query.png": "'': not a gallery (there is no such folder)",
    "info dataset:digits/test": "lookalike index digits.gallery dataset:digits/test",
    "index none.gallery": "lookalike index none.gallery SOURCE",
    "index photos.gallery --exclude a": "--exclude needs SOURCE",
    "index photos.gallery --encoder hog": "--encoder needs SOURCE",
    "index": "missing argument GALLERY; to search the folder of that name: lookalike ./index",
    "serve 'My Photos'": "lookalike serve 'My-Photos=My Photos'",
    "search photos.gallery --text ?": "has no word to search for",
    "search photos.gallery bicycle.jpg": "for words --text",
    "search photos photos.gallery": "the gallery to search comes first",
    "serve photos.gallery --share-folder shared": "set --share-queries to a number of days, too",
    "serve photos.gallery --share-queries 0": "--share-queries must be at least 1",
    "serve photos.gallery --share-queries 7 --share-folder query.png": "query.png cannot be",
    "search photos.gallery --offset 7": "lookalike search photos.gallery query.jpg",
    "search photos.gallery --sort nmae": "did you mean 'name'?",
    "search photos.gallery --sort ''": "--sort '' must name what to sort by, such as name or -date",
    "search photos.gallery --sort a --sort b --sort c --sort id": "--sort has more than 3 keys",
    "search photos.gallery query.png --sort name": "leave out --sort or the query",
    "search photos.gallery --sort name --exact": "--exact needs a query",
    "search photos.gallery --sort name --offset -1": "--offset -1 must be at least 0",
    "search photos.gallery --where 'name ='": "character 7: expected a text in quotes",
    "search photos.gallery --where '{\"a\": 1'": "filter: cannot be read (not valid JSON",
    "search photos.gallery --where a=1 --max-distance 1": "--max-distance needs something to",
    "search photos.gallery query.png --offset 20000": "--offset 20000 and -k 7 must be at most",
    "xyzzy": "lookalike FOLDER QUERY",
    "'a red bicycle'": "lookalike FOLDER QUERY",
    "idnex photos": "did you mean index?",
    "fotos query.png": "did you mean photos?",
    "search photos.gallery query.png --tex red": "did you mean --text?",
    "search photos.gallery query.png --top-k 3": "no such option --top-k",
    "index new.gallery photos --encoder clip": "clip-b32",
}
"""What is typed, and what the message names."""


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_names_the_command_that_leads_on(home: Path, typed: str) -> None:
    done = lookalike(*shlex.split(typed), cwd=home)
    assert MISTAKES[typed] in done.stderr
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    error = done.stderr[done.stderr.index("lookalike: error: ") :]
    assert len(error.splitlines()) <= 2
    for command in COMMAND.findall(error):
        parse(command_of(command))
    assert not (home / "new.gallery").exists()


def messages() -> Iterator[tuple[str, str]]:
    """Yield the commands that texts of the source code name after a colon, and where."""
    for file in sorted(Path(la.__file__).parent.rglob("*.py")):
        tree = ast.parse(file.read_text())
        nodes = list(ast.walk(tree))
        parts = {
            id(each) for node in nodes if isinstance(node, ast.JoinedStr) for each in node.values
        }
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                text = "".join(
                    str(each.value) if isinstance(each, ast.Constant) else "X"
                    for each in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = "" if id(node) in parts else node.value
            else:
                continue
            for match in COMMAND.finditer(text):
                if text[: match.start()].endswith(": "):
                    yield f"{file.name}:{node.lineno}", command_of(match[0])


def test_every_command_in_the_messages_exists() -> None:
    commands = list(messages())
    assert len(commands) > 30
    parse(TEXT_COMMAND)
    for place, command in commands:
        try:
            parse(command)
        except typer.TyperException as error:
            pytest.fail(f"{place}: {command}: {error}")


def test_a_command_that_does_not_exist_is_noticed() -> None:
    for command in ("lookalike index --no-such-option", "lookalike info", "lookalike key ad x y"):
        with pytest.raises(typer.TyperException):
            parse(command)


def test_index_of_one_argument(home: Path, tmp_path: Path) -> None:
    first = lookalike("index", home / "photos", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "creating photos.gallery; another one: lookalike index GALLERY SOURCE" in first.stderr
    assert "photos.gallery: 4 rows; 4 added" in first.stdout
    assert (
        "encoder: hog-fine+color (small color images); for others: lookalike encoders"
        in first.stderr
    )
    again = lookalike("index", home / "photos", cwd=tmp_path)
    assert "syncing photos.gallery" in again.stderr
    assert "4 unchanged" in again.stdout
    other = lookalike("index", "photos.gallery", home / "holidays", cwd=tmp_path)
    assert "8 rows; 4 added" in other.stdout
    every = lookalike("index", "photos.gallery", cwd=tmp_path)
    assert [line.split(":")[0] for line in every.stdout.splitlines()] == [
        "photos.gallery, photos",
        "photos.gallery, holidays",
    ]
    lines = lookalike("index", "photos.gallery", "--json", cwd=tmp_path).stdout.splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["photos", "holidays"]
    refused = lookalike("index", "photos.gallery", "--watch", cwd=tmp_path)
    assert (refused.returncode, "--watch needs SOURCE" in refused.stderr) == (2, True)


def test_a_source_that_is_gone_does_not_hold_up_the_others(home: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    Image.new("RGB", (12, 12), (9, 9, 99)).save(tmp_path / "more" / "a.png")
    lookalike("index", "g.gallery", "more", "--encoder", "color", cwd=tmp_path)
    lookalike("index", "g.gallery", home / "photos", cwd=tmp_path)
    (tmp_path / "more" / "a.png").unlink()
    (tmp_path / "more").rmdir()
    done = lookalike("index", "g.gallery", cwd=tmp_path)
    assert done.returncode == 1
    assert "g.gallery, photos: 5 rows; 0 added" in done.stdout
    assert re.search(r"failed: .*more: .* lookalike remove g.gallery --source more", done.stderr)


def test_folders_of_images_are_explored_and_named(home: Path) -> None:
    assert "4 images" in lookalike("explore", "duplicates", "photos", cwd=home).stdout
    assert kind_of_path(home / "photos") is PathKind.IMAGES
    assert kind_of_path(home / "holidays") is PathKind.IMAGES
    assert kind_of_path(home / "empty") is PathKind.FOLDER
    assert kind_of_path(home / "my.encoder") is PathKind.ENCODER
    assert gallery_name("a/b/photos/") == "photos.gallery"
    assert gallery_name("x.gallery") == "x.gallery"
    (home / "images.gallery").mkdir(exist_ok=True)
    assert gallery_name(home / "images.gallery") == "images-2.gallery"
    assert gallery_name("a\n\udcffb") == "a--b.gallery"
    assert gallery_name("dataset:digits/test") == "digits.gallery"
    assert gallery_name(home / "list.csv") == "list.gallery"


def test_python_gets_the_same_messages(home: Path) -> None:
    with pytest.raises(ArtifactError, match=r"is a folder of images, not a gallery; .*lookalike"):
        Gallery.open(home / "holidays")
    with pytest.raises(SourceError, match="is a gallery, not a source of images"):
        open_source(home / "photos.gallery")


def test_a_folder_of_images_is_served(home: Path) -> None:
    command = [sys.executable, "-m", "lookalike", "serve", "photos", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=home) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            url = next(each for line in lines for each in re.findall(r"http://\S+", line))
            names = la.Client(url).gallery("photos").search(text="3", k=1)
            assert [hit.id for hit in names] == ["photos:3.png"]
        finally:
            process.terminate()
            process.wait(30)
