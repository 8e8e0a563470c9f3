"""Commands, requests and Python examples of README and docs, run as they stand."""

from __future__ import annotations

import contextlib
import csv
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import typer.main
from PIL import Image

import lookalike as la
from lookalike.cli import app
from lookalike.gallery import on_demand
from lookalike.server.settings import LOOPBACK, ServeSettings
from lookalike.stores.base import Rows
from tests.conftest import Require
from tests.integration.test_cli import run
from tests.serving import serving
from tests.unit.test_human_judgements import hits, saved

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "galleries.md").read_text()
SERVING = (ROOT / "docs" / "serving.md").read_text()
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
)

SKIPPED = {
    "pip install": "would change the environment; CI installs from pyproject.toml",
    "make demo": "takes minutes; tests/integration/test_demo.py runs the demos",
    "make test": "runs this test",
    "lookalike index clip.gallery": "needs a model hub; see tests/unit/test_image_text.py",
    "lookalike search clip.gallery": "needs a model hub; see tests/unit/test_image_text.py",
    'lookalike photos "a red flower"': "needs a model hub; see tests/unit/test_hub_models.py",
    "lookalike copy photos.gallery milvus:": "needs a server; see tests/integration/test_milvus.py",
    "lookalike index milvus:": "needs a server and a cluster; see tests/integration/test_ray.py",
    "torchrun": "needs free cores; see tests/integration/test_distributed.py",
}
"""Beginnings of commands in the README that are not run, and why."""

SMALLER = {
    "-k 100": "-k 24",
    "--minutes 5": "--minutes 0.1",
    "--views-per-image 4": "--views-per-image 1",
}
"""Options changed for a folder of 36 images."""

_LABELS = ("flower", "coffee", "china", "coins")
COMMANDS: Any = typer.main.get_command(app)


def write_photos(folder: Path, labels: Sequence[str], name: str) -> Path:
    """Write twelve color images of 160x120 for each label; those of one label are similar."""
    rng = np.random.default_rng(1)
    for label in labels:
        (folder / label).mkdir(parents=True)
        base = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        for number in range(1, 13):
            noisy = np.clip(base + rng.integers(-40, 40, base.shape), 0, 255).astype(np.uint8)
            image = Image.fromarray(noisy).resize((160, 120))
            image.save(folder / label / name.format(number))
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos`` of the guides: photos/cats/1.jpg and so on."""
    home = tmp_path_factory.mktemp("home")
    write_photos(home / "photos", ("cats", "dogs", "birds"), "{}.jpg")
    return home


@pytest.fixture(scope="module")
def readme_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos`` of the README: photos/flower/12.jpg and so on."""
    home = tmp_path_factory.mktemp("readme")
    write_photos(home / "photos", _LABELS[:3], "{:02}.jpg")
    return home


@pytest.fixture(autouse=True)
def _galleries_on_demand(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep galleries of folders out of the cache, which has weights that other tests need too."""
    monkeypatch.setattr(on_demand, "CACHE", str(tmp_path_factory.getbasetemp() / "galleries"))


def blocks(page: str, *kinds: str) -> Iterator[str]:
    """Yield the fenced blocks of some kinds."""
    for kind, block in re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL):
        if kind in kinds:
            yield block


def commands(page: str) -> Iterator[str]:
    """Yield the commands in shell blocks; in console blocks they follow ``$``."""
    page = page.replace("\\\n", "")  # continued lines
    for block in blocks(page, "sh"):
        yield from filter(None, (line.partition(" #")[0].strip() for line in block.splitlines()))
    for block in blocks(page, "console"):
        yield from re.findall(r"^\$ (.+)$", block, re.MULTILINE)


def skipped(command: str) -> str | None:
    """Return the entry of :data:`SKIPPED` that a command falls under."""
    return next((start for start in SKIPPED if command.startswith(start)), None)


def fill_in_labels(table: Path) -> None:
    """Label suggested images by the folder they are in."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": row["id"].split(":")[1].split("/")[0]} for row in rows)


@contextlib.contextmanager
def serve(arguments: Sequence[str], cwd: Path) -> Iterator[str]:
    """Yield the line with which ``lookalike serve`` says that it is ready, at a free port."""
    command = [sys.executable, "-m", "lookalike", *arguments, "--port", "0"]
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        try:
            yield next(line for line in iter(service.stderr.readline, "") if "http://" in line)
        finally:
            service.terminate()


def shape(output: str) -> list[str]:
    """Return the lines of an output without numbers, labels and widths."""
    output = re.sub(rf"\b({'|'.join(_LABELS)})\b", "LABEL", output)
    output = re.sub(r"\d[\d.,:]*", "#", re.sub("─+", "─", output))
    return [" ".join(line.split()) for line in output.splitlines() if line.strip()]


def run_block(block: str, home: Path, stack: contextlib.ExitStack) -> None:
    """Run the commands of a shell block; what is served stays up until its end."""
    url = ""
    for line in commands(f"```sh\n{block}```"):
        if skipped(line):
            continue
        for option, smaller in SMALLER.items():
            line = line.replace(option, smaller)
        program, *arguments = shlex.split(line.replace("http://127.0.0.1:8000/", url or "NONE"))
        if program == "curl":
            request = [program, *arguments, "--fail", "--silent"]
            assert subprocess.run(request, cwd=home).returncode == 0, line
        elif arguments[0] == "serve":
            ready = stack.enter_context(serve(arguments, home))
            url = re.findall(r"http://\S+", ready)[0]
        else:
            assert program == "lookalike"
            run(*arguments, cwd=home)
            if arguments[:2] == ["label", "suggest"]:
                fill_in_labels(home / "first" / "labels.csv")


def test_readme_commands_print_what_the_readme_shows(readme_home: Path) -> None:
    shown = "".join(blocks(README, "console"))
    first, *others = re.split(r"^\$ lookalike ", shown, flags=re.MULTILINE)
    assert not first
    for each in others:
        command, expected = each.split("\n", 1)
        arguments = shlex.split(command)
        if arguments[0] == "serve":
            with serve(arguments, readme_home) as ready:
                assert shape(ready) == shape(expected)
        else:
            assert shape(run(*arguments, cwd=readme_home)) == shape(expected), command


def test_readme_commands_work(readme_home: Path, require: Require) -> None:
    require(shutil.which("curl"), "curl is not installed")
    if not (readme_home / "photos.gallery").exists():
        run("index", "photos.gallery", "photos", cwd=readme_home)
    for block in blocks(README, "sh"):
        with contextlib.ExitStack() as stack:
            run_block(block, readme_home, stack)
    for output in ("hits.png", "duplicates", "report.html", "photos.encoder/encoder.json"):
        assert (readme_home / output).exists()
    with (readme_home / "all.csv").open(newline="") as file:
        assert all(row["prediction"] in row["id"] for row in csv.DictReader(file))
    assert "data:image" in (readme_home / "map.html").read_text()


def test_every_skipped_readme_command_has_a_reason() -> None:
    entries = {skipped(command) for command in commands(README)} - {None}
    assert entries == set(SKIPPED)
    for reason in SKIPPED.values():
        assert all((ROOT / path).exists() for path in re.findall(r"tests/\S+\.py", reason))


def test_readme_python_example_works(readme_home: Path) -> None:
    if not (readme_home / "photos.gallery").exists():
        run("index", "photos.gallery", "photos", cwd=readme_home)
    (code,) = blocks(README, "python")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=readme_home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "photos:flower/12.jpg" in done.stdout


def test_contributing_examples_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, store, command = blocks((ROOT / "CONTRIBUTING.md").read_text(), "python")
    example = ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", example)  # where dataclass looks for its module
    names = vars(example)
    exec(f"{encoder}\n{store}", names)
    images = [np.full((20, 30, 3), value, np.uint8) for value in (20, 200)]
    embeddings = names["SPEC"].fit("mean-color", images).encode(images)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    counting = names["LoggingStore"](3)
    counting.upsert(Rows(["a", "b"], ["/a", "/b"], embeddings, [{}, {}], ["1", "2"]))
    assert counting.written == counting.count() == 2
    exec(command, names)
    monkeypatch.chdir(tmp_path)
    run("index", "d.gallery", "dataset:digits/test[:20]", "--encoder", "pixels")
    names["command"]("d.gallery")
    assert sum(int(line.split()[-1]) for line in capsys.readouterr().out.splitlines()) == 20


def _command(words: Sequence[str]) -> tuple[Any, list[str]]:
    """Return the command that words name, and the words after its name.

    A folder in its place is the short form of ``search``.
    """
    found, rest = COMMANDS, list(words)
    if rest[0] == "photos":
        rest.insert(0, "search")
    while hasattr(found, "commands") and rest and rest[0] in found.commands:
        found = found.commands[rest.pop(0)]
    return found, rest


def _options(command: Any) -> set[str]:
    command = getattr(command, "default", command)
    context = typer.Context(command)
    named = {name for each in command.get_params(context) for name in each.opts}
    return named | {name for each in command.get_params(context) for name in each.secondary_opts}


@pytest.mark.parametrize("page", PAGES)
def test_documented_commands_and_options_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    documented = [*commands(text), *re.findall(r"`(lookalike [^`]+)`", text)]
    for line in documented:
        words = shlex.split(line, comments=True)
        if "torchrun" in words:
            words = words[words.index("-m") + 1 :]
        if words[:1] != ["lookalike"]:
            continue
        del words[0]
        command, rest = _command(words)
        assert command is not COMMANDS or words[0].startswith("-") or words[0].isupper(), line
        options = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert options <= _options(command), line


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_docs_exist(page: str) -> None:
    """Paths may begin at the root or anywhere below the folders of code."""
    folders = ("src", "tests", "benchmarks", "deploy")
    files = {f"/{path.relative_to(ROOT)}" for name in folders for path in (ROOT / name).rglob("*")}
    named = re.findall(r"`([\w./-]+\.(?:py|js|yaml))`", (ROOT / page).read_text())
    missing = [name for name in named if not any(file.endswith(f"/{name}") for file in files)]
    assert [name for name in missing if "NAME" not in name and not (ROOT / name).exists()] == []


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make (\w+)", (ROOT / page).read_text(), re.MULTILINE):
            assert f"\n{target}:" in makefile, f"{page}: make {target}"


def test_every_image_of_the_docs_is_shown() -> None:
    text = "".join((ROOT / page).read_text() for page in PAGES)
    for path in (ROOT / "docs" / "images").iterdir():
        assert f"images/{path.name}" in text, path.name
        assert path.stat().st_size < 300_000, path.name


def test_every_command_of_the_guide_to_galleries_works(home: Path, tmp_path: Path) -> None:
    """In order; the metadata table shown is written, and files move with mv."""
    shutil.copytree(home / "photos", tmp_path / "photos")
    for name, right in (("anna", "yyny"), ("ben", "ynny")):
        saved(tmp_path / f"{name}.json", hits=[hits(f"{i}", right) for i in range(3)])
    ran = 0
    for kind, block in re.findall(r"```(\w+)\n(.*?)```", GUIDE, re.DOTALL):
        if kind == "csv":
            (tmp_path / "archive" / "metadata.csv").write_text(block)
            continue
        if kind == "python":
            assert subprocess.run([sys.executable, "-c", block], cwd=tmp_path).returncode == 0
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            if program == "mv":
                (tmp_path / arguments[0]).rename(tmp_path / arguments[1])
                continue
            if program == "pip":  # what it installs is there
                continue
            assert program == "lookalike"
            output = run(*arguments, cwd=tmp_path)
            assert output, arguments
            ran += 1
            described = (tmp_path / "archive" / "metadata.csv").exists()
            if arguments == ["index", "photos.gallery", "archive"] and not described:
                assert "36 unchanged" in output
            if "year >= 2021 and" in line:
                assert "3 results" in output
    assert ran == len(re.findall(r"^lookalike ", GUIDE, re.MULTILINE))
    assert (tmp_path / "hits.png").exists()


def test_every_request_of_the_guide_to_serving_works(home: Path, require: Require) -> None:
    require(shutil.which("curl"), "curl is not installed")
    paths = {"photos": "photos.gallery", "adapted": "color-2.gallery"}
    for path in paths.values():
        if not (home / path).exists():
            assert run("index", path, "photos", "--encoder", "color", cwd=home)
    galleries = {name: la.Gallery.open(home / path) for name, path in paths.items()}
    guide = re.findall(r"```(\w+)\n(.*?)```", SERVING, re.DOTALL)
    ran = 0
    settings = ServeSettings(
        allow_writes=True, hosts=LOOPBACK, share_days=7, share_folder=home / "shared"
    )
    with serving(galleries, settings) as service:
        for kind, block in guide:
            text = block.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")
            if kind == "python" and "la.Client" in text:
                done = subprocess.run(
                    [sys.executable, "-c", f"import lookalike as la\n{text}"], cwd=home
                )
                assert done.returncode == 0, text
                ran += 1
            for line in text.splitlines() if kind == "sh" else ():
                if line.startswith("curl"):
                    command = [*shlex.split(line), "--fail", "--silent"]
                    assert subprocess.run(command, cwd=home).returncode == 0, line
                    ran += 1
    assert ran == len(re.findall(r"^curl |la\.Client\(", SERVING, re.MULTILINE))
    lines = [line.strip() for _, block in guide for line in block.splitlines()]
    lines = [line for line in lines if line.startswith("lookalike key ")]
    assert len(lines) >= 3
    for arguments in sorted({tuple(shlex.split(line, comments=True)) for line in lines}):
        assert run(*arguments[1:], cwd=home) or arguments[2] == "list", arguments
