"""The output and the picture of the README, from photographs that come with Python packages.

    python benchmarks/readme.py WORK

WORK is a folder for ``photos``, which ``lookalike demo photos`` cuts from the photographs of
scikit-learn and scikit-image, and for the gallery. Prints each command with its output and writes
``docs/images/hits.jpg``. Licenses of the photographs in the picture: flower and china CC BY 2.0,
danielbuechele and vultilion on Flickr (scikit-learn); chelsea and coffee CC0, rocket public domain
(scikit-image).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "hits.jpg"
QUERIES = ("flower/12", "china/12", "chelsea/11", "coffee/12", "rocket/12")
_WIDTH = 1000
_QUALITY = 82


def run(work: Path, *arguments: str) -> None:
    """Print a command of the README and what it prints."""
    print("$ lookalike", *arguments, flush=True)
    command = [sys.executable, "-m", "lookalike", *arguments]
    subprocess.run(command, cwd=work, check=True, env=os.environ | {"COLUMNS": "80"})


def main(work: Path) -> None:
    """Make the folder, run the commands, save the picture."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "photos").exists():
        run(work, "demo", "photos", "--out", "demo")
        shutil.copytree(work / "demo" / "photos" / "pieces", work / "photos")
    run(work, "photos", "photos/flower/12.jpg")
    run(work, "index", "photos.gallery", "photos")
    where = ("--where", "label != 'coins'")
    run(work, "search", "photos.gallery", "photos/flower/12.jpg", *where, "-k", "3")
    queries = [f"--id=photos:{name}.jpg" for name in QUERIES]
    run(work, "search", "photos.gallery", *queries, "--image", "hits.png")
    with Image.open(work / "hits.png") as sheet:
        height = round(sheet.height * _WIDTH / sheet.width)
        small = sheet.convert("RGB").resize((_WIDTH, height), Image.Resampling.LANCZOS)
        small.save(PICTURE, quality=_QUALITY, optimize=True)
    print(f"{PICTURE.name}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
