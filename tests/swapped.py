"""Galleries that are replaced while they are in use, and processes that read meanwhile."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ArtifactError
from lookalike.gallery.gallery import Gallery
from lookalike.sources import open_source

NAME = "pics"
Answer = list[tuple[str, float]]


@dataclass(frozen=True)
class Side:
    """A folder of images and an encoder that is fitted to them: the same name and dim as others."""

    folder: Path
    encoder: Encoder

    @classmethod
    def make(cls, folder: Path, seed: int, count: int = 40) -> Side:
        folder.mkdir()
        rng = np.random.default_rng(seed)
        for number in range(count):
            pixels = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((16, 16), 2).save(folder / f"{folder.name}{number}.png")
        return cls(folder, open_encoder("pca", open_source(folder)))

    def image(self, number: int) -> Path:
        return self.folder / f"{self.folder.name}{number}.png"

    def create(self, path: Path) -> Gallery:
        """Create a gallery of these images in an empty place."""
        gallery = Gallery.create(path, encoder=self.encoder)
        gallery.sync(open_source(self.folder, name=NAME))
        return gallery

    def replace(self, path: Path) -> Gallery:
        """Put a gallery of these images in the place of another one, as a person would."""
        shutil.rmtree(path)
        return self.create(path)


def answer(gallery: Gallery, query: Path | bytes, k: int = 3) -> Answer:
    return [(hit.id, round(hit.distance, 4)) for hit in gallery.search(query, k=k)]


@dataclass(frozen=True)
class Reads:
    """What a reader got: answers that are right, errors that say why, and anything else."""

    right: int
    refused: int
    wrong: list[str]


def read_repeatedly(
    path: Path, queries: Sequence[Path], expected: Sequence[Sequence[Answer]], count: int
) -> Reads:
    """Search an open gallery until ``count`` answers are among the expected ones."""
    right, refused = 0, 0
    wrong: list[str] = []
    gallery: Gallery | None = None
    while right < count and len(wrong) < 5:
        place = right % len(queries)
        try:
            gallery = gallery or Gallery.open(path)
            got = answer(gallery, queries[place])
        except ArtifactError:
            refused += 1
        except Exception as error:  # noqa: BLE001 - counted
            wrong.append(f"{type(error).__name__}: {error}")
        else:
            if got in [list(map(tuple, each[place])) for each in expected]:
                right += 1
            else:
                wrong.append(f"{queries[place].name}: {got}")
    return Reads(right, refused, wrong)


def start_reader(
    path: Path, queries: Sequence[Path], expected: Sequence[Sequence[Answer]], count: int
) -> subprocess.Popen[str]:
    """Start a process that does :func:`read_repeatedly`; :func:`finish` returns its result."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.swapped"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdin is not None
    json.dump([str(path), list(map(str, queries)), expected, count], process.stdin)
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[str]) -> Reads:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return Reads(**json.loads(output))


def main() -> None:
    path, queries, expected, count = json.load(sys.stdin)
    reads = read_repeatedly(Path(path), list(map(Path, queries)), expected, count)
    json.dump({"right": reads.right, "refused": reads.refused, "wrong": reads.wrong}, sys.stdout)


if __name__ == "__main__":
    main()
