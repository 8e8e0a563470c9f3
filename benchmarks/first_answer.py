"""From an empty environment to the first answer, recorded: commands, sizes and seconds.

    python benchmarks/first_answer.py [WORK] > docs/first-answer.md

Makes a virtual environment in WORK (by default a temporary folder, removed at the end), installs
the plain package there, without torch, and searches 463 mixed photographs with one command. The
photographs are pieces of those of scikit-learn and scikit-image (as in ``lookalike demo photos``)
and stamps of Tux Paint, written by the environment that runs this script. Prints Markdown; exits
with 1 if the answer is wrong or a target is missed.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from PIL import Image

import lookalike as la
from lookalike.demos.photos import write_pieces

ROOT = Path(__file__).parents[1]
IMAGES = 463
QUERY = "photos/flower/12.jpg"
RIGHT, TOTAL_SECONDS, FIRST_USE_SECONDS = 6, 180, 3

FIRST_USE = f"import lookalike as la; la.open_encoder('efficientnet-lite0').encode('{QUERY}')"


def write_photographs(folder: Path) -> None:
    """Write 463 photographs: pieces of a few large ones, in a folder each, and stamps."""
    write_pieces(folder)
    (folder / "metadata.csv").unlink()
    stamps = la.open_source("dataset:stamps/shop")
    (folder / "stamps").mkdir()
    present = sum(1 for _ in folder.rglob("*.jpg"))
    for number in range(IMAGES - present):
        image = Image.fromarray(stamps[number * 7 % len(stamps)].image())
        image.convert("RGB").save(folder / "stamps" / f"{number:02}.jpg", quality=92)


class Session:
    """Commands run in one folder, printed as a console shows them, with their seconds.

    ``seconds`` are those of the last command, ``total`` those of the counted ones.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.total = self.seconds = 0.0
        cache = {"LOOKALIKE_DATA": str(work / "cache"), "COLUMNS": "80"}
        path = f"{work / 'env' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, **cache, "PATH": path}

    def run(self, *command: str, shown: str | None = None, counted: bool = False) -> str:
        """Run a command, print it with its output and time, and return its output."""
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=self.work, env=self._environment, capture_output=True, text=True
        )
        self.seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")
        self.total += self.seconds * counted
        print(f"$ {shown or shlex.join(command)}")
        noted = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        print("\n".join([*noted, *done.stdout.splitlines(), f"# {self.seconds:.1f} s"]), flush=True)
        return done.stdout


def megabytes(folder: Path) -> float:
    """Return the size of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main(work: Path) -> bool:
    """Record the session; return whether all is as it should be."""
    photos = work / "photos"
    if not photos.exists():
        write_photographs(photos)
    venv.create(work / "env", with_pip=True, symlinks=True)
    session = Session(work)
    print(
        "# The first answer\n\n"
        f"Recorded by `python benchmarks/first_answer.py` on {os.cpu_count()} cores without a GPU, "
        f"Python {platform.python_version()}: a new environment without torch, an empty cache, and "
        f"{IMAGES} mixed photographs ({megabytes(photos):.0f} MB): pieces of photographs of "
        "scikit-learn and scikit-image, each in the folder of its photograph, and stamps of Tux "
        "Paint.\n\n```console"
    )
    install = ("pip", "install", "--quiet", "--disable-pip-version-check")
    constraints = ("-c", str(ROOT / "constraints.txt"))
    session.run(*install, *constraints, str(ROOT), shown="pip install .", counted=True)
    first = session.run("lookalike", "photos", QUERY, counted=True)
    session.run("lookalike", "photos", QUERY, "--paths")
    session.run("python", "-c", FIRST_USE, shown=f'python -c "{FIRST_USE}"')
    first_use = session.seconds
    absent = session.run(
        *("python", "-c", "import importlib.util as i; print(i.find_spec('torch'))"),
        shown="python -c \"import importlib.util as i; print(i.find_spec('torch'))\"",
    )
    print("```\n")
    right = first.count("flower/") - 1  # the title names the query
    site = next((work / "env").glob("lib/python*/site-packages"))
    answer = (
        "| | measured | target |\n|---|--:|--:|\n"
        f"| right results among the first 7 | {right} | {RIGHT} |\n"
        f"| `pip install .` and the first answer | {session.total:.0f} s | {TOTAL_SECONDS} s |\n"
        f"| first use of `efficientnet-lite0` | {first_use:.1f} s | {FIRST_USE_SECONDS} s |\n"
        f"| installed, with pip | {megabytes(site):.0f} MB | |\n"
        f"| gallery and network, in the cache | {megabytes(work / 'cache'):.1f} MB | |"
    )
    print(answer)
    return (
        right >= RIGHT
        and absent.strip() == "None"
        and session.total <= TOTAL_SECONDS
        and first_use <= FIRST_USE_SECONDS
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        sys.exit(0 if main(Path(sys.argv[1]).resolve()) else 1)
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if main(Path(folder)) else 1)
