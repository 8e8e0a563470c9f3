"""The memory of decoding: what the machine has to spare, shared by threads."""

from __future__ import annotations

import importlib
import io
import math
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.errors import ImageError
from lookalike.images import memory
from lookalike.images.decode import decode
from lookalike.images.memory import MemoryBudget, available_memory
from lookalike.images.options import DecodeOptions

MIB = 1 << 20
decode_module = importlib.import_module("lookalike.images.decode")


def machine(root: Path, **files: str) -> Path:
    """Make the files of a machine with 8 GiB available, in a control group ``/a/b``."""
    texts = {
        "proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n",
        "proc/self/cgroup": "0::/a/b\n",
        "proc/self/mountinfo": "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
        **files,
    }
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("limits", "available"),
    [
        ({}, 8192),
        ({"a/b": ("max", 100, 0)}, 8192),
        ({"a/b": (1000, 400, 0)}, 600),
        ({"a/b": (1000, 1000, 700)}, 700),
        ({"a/b": (1000, 400, 0), "a": (900, 850, 0)}, 50),
        ({"a/b": (100_000, 0, 0)}, 8192),
        ({"a/b": (10, 20, 0)}, 0),
    ],
)
def test_memory_that_is_left(
    tmp_path: Path, limits: dict[str, tuple[int | str, int, int]], available: int
) -> None:
    files = {}
    for group, (limit, used, cached) in limits.items():
        folder = f"sys/fs/cgroup/{group}"
        files[f"{folder}/memory.max"] = limit if limit == "max" else str(int(limit) * MIB)
        files[f"{folder}/memory.current"] = str(used * MIB)
        mapped = cached * MIB // 4  # as of a gallery that is searched
        stat = f"anon 1\ninactive_file {cached * MIB - mapped}\nactive_file {mapped}\n"
        files[f"{folder}/memory.stat"] = f"{stat}active_anon 5\n"
    assert available_memory(machine(tmp_path, **files)) == available * MIB


def test_memory_is_known_without_proc(tmp_path: Path) -> None:
    assert available_memory(tmp_path) > 0


def test_large_images_wait_for_each_other_and_small_ones_do_not() -> None:
    budget = MemoryBudget(limit=1000 * MIB)
    running: list[int] = []
    most: list[int] = []

    def work(size: int) -> None:
        with budget.reserve(size * MIB):
            running.append(size)
            most.append(sum(running))
            time.sleep(0.005)
            running.remove(size)

    threads = [threading.Thread(target=work, args=(400,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert max(most) == 800
    with budget.reserve(1000 * MIB), budget.reserve(MIB), budget.reserve(100 * MIB):
        pass
    with budget.reserve(3000 * MIB):  # allowed by the caller, when nothing else is held
        pass


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_images_that_need_too_much_memory_are_refused_before_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decode_module, "BUDGET", MemoryBudget(limit=500 * MIB))
    with pytest.raises(ImageError) as caught:
        decode(png(20_000, 15_000), name="a.png")
    message = str(caught.value)
    assert message.startswith("a.png: 20000x15000 pixels need 0.9 GB of memory to decode, more")
    assert message.endswith("downscale it, or set max_megapixels")
    worded = caught.value.format_message(lambda *_: "--max-megapixels")
    assert worded.endswith("set --max-megapixels")
    assert decode(png(10_000, 300), name="a.png").shape == (300, 10_000)


def test_limit_in_megapixels_replaces_the_one_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(1200, 1000)
    with pytest.raises(ImageError, match="1200x1000 pixels, more than the limit of 1 megapixels"):
        decode(data, options=DecodeOptions(max_megapixels=1))
    monkeypatch.setattr(memory, "COUNTED_BYTES", 0)
    monkeypatch.setattr(decode_module, "COUNTED_BYTES", 0)
    monkeypatch.setattr(decode_module, "BUDGET", MemoryBudget(limit=1))
    with pytest.raises(ImageError, match="of memory to decode"):
        decode(data)
    for limit in (1.2, math.inf):
        assert decode(data, options=DecodeOptions(max_megapixels=limit)).shape == (1000, 1200)


@pytest.mark.slow
def test_jpegs_of_phones_need_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "BUDGET", MemoryBudget(limit=128 * MIB))
    gradient = Image.radial_gradient("L").resize((12_000, 9000))
    file = io.BytesIO()
    gradient.save(file, "JPEG", quality=60)
    decoded = decode(file.getvalue())
    assert decoded.shape == (1125, 1500)
    expected = np.asarray(gradient.reduce(8))
    assert np.abs(decoded.astype(int) - expected).mean() < 2
    with pytest.raises(ImageError, match="of memory to decode"):
        decode(file.getvalue(), full_size=True)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
def test_large_images_are_reduced_by_a_whole_factor(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_module, "LARGE", 5000)
    monkeypatch.setattr(decode_module, "_STRIP", 700)
    small = np.random.default_rng(1).integers(0, 256, (8, 11, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize((221, 90), Image.Resampling.BICUBIC)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    else:
        image = picture.convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF" if mode == "CMYK" else "PNG")
    whole = decode(file.getvalue(), full_size=True)
    assert whole.shape[:2] == (90, 221)
    reduced = decode(file.getvalue())
    assert reduced.shape[:2] == (45, 111)
    expected = np.asarray(Image.fromarray(whole).reduce(2))
    assert np.abs(reduced.astype(int) - expected).max() <= 2


def test_large_files_are_in_memory_one_at_a_time(tmp_path: Path) -> None:
    """Others, which are small, do not wait for them."""
    budget = MemoryBudget(1 << 40)
    inside, most = 0, 0
    small_done = threading.Event()

    def work(size: int) -> None:
        nonlocal inside, most
        with budget.hold_file(size):
            if size < memory.COUNTED_BYTES:
                small_done.set()
                return
            inside += 1
            most = max(most, inside)
            assert small_done.wait(60)
            inside -= 1

    sizes = [memory.COUNTED_BYTES] * 4 + [memory.COUNTED_BYTES - 1]
    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (inside, most) == (0, 1)


def test_a_file_that_does_not_fit_into_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "COUNTED_BYTES", 1_000)
    monkeypatch.setattr(memory.BUDGET, "_fixed", 3_000)
    for size, fits in ((0, True), (999, True), (1_000, True), (3_000, True), (3_001, False)):
        path = tmp_path / f"{size}.png"
        path.write_bytes(b"x" * size)
        if fits:
            assert memory.read_file(path) == b"x" * size
        else:
            with pytest.raises(OSError, match="GB of memory that may be used"):
                memory.read_file(path)
            with pytest.raises(ImageError, match="GB of memory that may be used"):
                decode(path)
    with pytest.raises(OSError, match="GB of memory"):
        memory.read_file("/proc/self/pagemap")  # whose size is said to be 0, and that has no end
