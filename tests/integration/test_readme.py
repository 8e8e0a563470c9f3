"""The README's own words, run as they stand."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from tests.conftest import Require
from tests.integration.test_cli import run
from tests.serving import serving
from tests.unit.test_human_judgements import hits, saved

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "galleries.md").read_text()
SERVING = (ROOT / "docs" / "serving.md").read_text()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/cats, photos/dogs, photos/birds of twelve images each."""
    rng = np.random.default_rng(1)
    home = tmp_path_factory.mktemp("home")
    for label in ("cats", "dogs", "birds"):
        (home / "photos" / label).mkdir(parents=True)
        base = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        for number in range(1, 13):
            noisy = np.clip(base + rng.integers(-40, 40, base.shape), 0, 255).astype(np.uint8)
            image = Image.fromarray(noisy).resize((160, 120))
            image.save(home / "photos" / label / f"{number}.jpg")
    return home


def test_every_command_for_ones_own_folder_works(home: Path) -> None:
    section = README.split("## The first ten minutes")[1].split("## Name a hundred")[0]
    commands = [
        shlex.split(line, comments=True)
        for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(commands) == 14
    for program, *arguments in commands:
        assert program == "lookalike"
        assert run(*arguments, cwd=home), arguments
    for left in ("hits.png", "color.html", "photos.encoder/encoder.json", "trained.gallery"):
        assert (home / left).exists()


def test_the_commands_for_naming_images_work(home: Path) -> None:
    """With 24 images to name instead of 100, since there are 36; each is named by its folder."""
    section = README.split("## Name a hundred")[1].split("## From Python")[0]
    block = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[0].replace("-k 100", "-k 24")
    suggest, spread, explore = (shlex.split(x, comments=True)[1:] for x in block.splitlines())
    if not (home / "photos.gallery").exists():
        assert run("index", "photos.gallery", "photos", cwd=home)
    run(*suggest, cwd=home)
    named = home / "first" / "labels.csv"
    with named.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    with named.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": row["id"].split(":")[1].split("/")[0]} for row in rows)
    run(*spread, cwd=home)
    with (home / "all.csv").open(newline="") as file:
        told = list(csv.DictReader(file))
    assert len(told) == 36
    assert all(row["guess"] in row["id"] for row in told)
    run(*explore, cwd=home)
    assert "data:image" in (home / "map.html").read_text()


def test_every_command_of_the_guide_to_galleries_works(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its order; what it shows of a metadata table is put there, and files move with mv."""
    shutil.copytree(home / "photos", tmp_path / "photos")
    for name, right in (("anna", "yyny"), ("ben", "ynny")):
        saved(tmp_path / f"{name}.json", hits=[hits(f"{i}", right) for i in range(3)])
    ran = 0
    for kind, block in re.findall(r"```(\w+)\n(.*?)```", GUIDE, re.DOTALL):
        if kind == "csv":
            (tmp_path / "archive" / "metadata.csv").write_text(block)
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            if program == "mv":
                (tmp_path / arguments[0]).rename(tmp_path / arguments[1])
                continue
            assert program == "lookalike"
            said = run(*arguments, cwd=tmp_path)
            assert said, arguments
            ran += 1
            if "--relocate" in arguments:
                assert "36 unchanged" in said
            if "year >= 2021 and" in line:
                assert "3 hits" in said
    assert ran == 17
    assert (tmp_path / "hits.png").exists()


def test_the_python_example_works(home: Path) -> None:
    code = README.split("## From Python")[1].split("```")[1].removeprefix("python\n")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "photos:cats/1.jpg" in done.stdout


def test_links_and_targets_are_there() -> None:
    root = Path(__file__).parents[2]
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (root / target).exists(), target
    makefile = (root / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_every_request_of_the_guide_to_serving_works(home: Path, require: Require) -> None:
    require(shutil.which("curl"), "curl is not installed")
    made = {"photos": "photos.gallery", "adapted": "color-2.gallery"}
    for path in made.values():
        if not (home / path).exists():
            assert run("index", path, "photos", "--encoder", "color", cwd=home)
    galleries = {name: la.Gallery.open(home / path) for name, path in made.items()}
    blocks = re.findall(r"```(\w+)\n(.*?)```", SERVING + README, re.DOTALL)
    ran = 0
    with serving(galleries) as served:
        for kind, block in blocks:
            text = block.replace("127.0.0.1:8000", f"127.0.0.1:{served.port}")
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
    assert ran == 9
    lines = [line for _, block in blocks for line in block.splitlines() if " key " in line]
    for arguments in sorted({tuple(shlex.split(line, comments=True)) for line in lines}):
        assert arguments[:2] == ("lookalike", "key")
        assert run(*arguments[1:], cwd=home) or arguments[2] == "list", arguments
