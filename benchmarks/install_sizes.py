"""What each installation weighs: fresh virtual environments, one for each set of extras.

    python benchmarks/install_sizes.py [EXTRAS...]

EXTRAS are sets such as ``serve`` or ``train,report``; without any, those of the table in
docs/encoders.md. ``base`` is the plain installation. Prints a Markdown table: megabytes of
site-packages without pip, packages, and seconds of ``pip install`` under constraints.txt, with the
cache of pip as it is. The largest packages of each follow.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETS = ("base", "serve", "report", "label", "explore", "geometric", "train", "timm,transformers")
_LARGEST = 6
_TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack")


@dataclass(frozen=True)
class Installation:
    """What was measured of a set of extras: bytes by folder or file of site-packages."""

    extras: str
    seconds: float
    packages: int
    sizes: dict[str, int]

    @property
    def megabytes(self) -> float:
        """Of all files."""
        return sum(self.sizes.values()) / 1e6


def install(extras: str, folder: Path) -> Installation:
    """Install a set of extras into a new environment in ``folder`` and measure it."""
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    target = str(ROOT) if extras == "base" else f"{ROOT}[{extras}]"
    quiet = ("--quiet", "--disable-pip-version-check")
    start = time.perf_counter()
    subprocess.run(
        [python, "-m", "pip", "install", *quiet, "-c", ROOT / "constraints.txt", target],
        check=True,
    )
    seconds = time.perf_counter() - start
    (site,) = folder.glob("lib/python*/site-packages")
    sizes = {path.name: _size(path) for path in site.iterdir() if not path.name.startswith(_TOOLS)}
    packages = sum(name.endswith(".dist-info") for name in sizes)
    return Installation(extras, seconds, packages, sizes)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def main(sets: list[str]) -> None:
    """Measure the sets one after another and print the table."""
    results = []
    for extras in sets:
        with tempfile.TemporaryDirectory() as folder:
            results.append(install(extras, Path(folder) / "environment"))
        print(f"{extras}: {results[-1].megabytes:.0f} MB", file=sys.stderr, flush=True)
    print("| `pip install` | MB | packages | seconds |\n|---|--:|--:|--:|")
    for each in results:
        name = "." if each.extras == "base" else f"'.[{each.extras}]'"
        print(f"| `{name}` | {each.megabytes:,.0f} | {each.packages} | {each.seconds:.0f} |")
    for each in results:
        largest = sorted(each.sizes.items(), key=lambda item: -item[1])[:_LARGEST]
        listed = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in largest)
        print(f"\n{each.extras}: {listed}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(SETS))
