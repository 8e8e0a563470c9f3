"""Damaged files: decoded as far as they go, refused by ``strict``, never an unforeseen error."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lookalike.errors import ImageError
from lookalike.images.decode import decode, decode_with_notes
from lookalike.images.header import read_header
from lookalike.images.options import BY_PERCENTILES, DAMAGED, TRUNCATED, DecodeOptions

STRICT = DecodeOptions(strict=True)
SMALL = np.random.default_rng(4).integers(0, 256, (9, 12, 3), dtype=np.uint8)
PICTURE = Image.fromarray(SMALL).resize((160, 120), Image.Resampling.BICUBIC)
GRAY = PICTURE.convert("L")
DEEP = Image.fromarray(np.asarray(GRAY).astype(np.uint16) * 257)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


ROWS = {
    "jpeg": encode(PICTURE, "JPEG", quality=90),
    "gray jpeg": encode(GRAY, "JPEG", quality=90),
    "cmyk jpeg": encode(PICTURE.convert("CMYK"), "JPEG"),
    "restart markers": encode(PICTURE, "JPEG", restart_marker_rows=1),
    "png": encode(PICTURE, "PNG"),
    "png with palette": encode(PICTURE.quantize(200), "PNG"),
    "png with alpha": encode(PICTURE.convert("RGBA"), "PNG"),
    "png of 16 bits": encode(DEEP, "PNG"),
    "gif": encode(PICTURE, "GIF", interlace=0),
    "bmp": encode(PICTURE, "BMP"),
    "tiff": encode(PICTURE, "TIFF"),
    "tga": encode(PICTURE, "TGA", compression="tga_rle"),
    "pcx": encode(PICTURE, "PCX"),
    "ppm": encode(PICTURE, "PPM"),
}
"""Files whose decoders write rows as they read them."""

WHOLE = {
    "webp": encode(PICTURE, "WEBP"),
    "avif": encode(PICTURE, "AVIF"),
    "jpeg 2000": encode(PICTURE, "JPEG2000"),
}


def named(kind: str) -> str:
    return f"a.{kind}" if kind in ("tga", "pcx") else "a"


@pytest.mark.parametrize("kind", ROWS)
def test_cut_files_are_decoded_as_far_as_they_go(kind: str) -> None:
    data, name = ROWS[kind], named(kind)
    whole = decode(data, name=name)
    for share in (0.4, 0.6, 0.8):
        cut = data[: int(len(data) * share)]
        decoded = decode_with_notes(cut, name=name)
        assert TRUNCATED in decoded.notes
        assert decoded.pixels.shape == whole.shape
        close = np.abs(decoded.pixels.astype(int) - whole) <= 12
        close = close[::-1] if kind in ("bmp", "tga") else close  # which begin at the bottom
        first = close[: int(len(close) * (share - 0.3))]
        assert first.mean() > 0.97
        assert close[-10:].mean() < 0.9
        with pytest.raises(ImageError, match=f"{name}: broken image"):
            decode(cut, name=name, options=STRICT)


@pytest.mark.parametrize("kind", WHOLE)
def test_files_that_are_decoded_as_a_whole_are_refused_when_cut(kind: str) -> None:
    with pytest.raises(ImageError, match="a: broken image"):
        decode(WHOLE[kind][: len(WHOLE[kind]) * 3 // 4], name="a")


def test_progressive_jpeg_gets_coarser() -> None:
    data = encode(PICTURE, "JPEG", progressive=True, quality=90)
    whole = decode(data).astype(int)
    decoded = decode_with_notes(data[: int(len(data) * 0.7)])
    assert decoded.notes == (TRUNCATED,)
    assert np.abs(decoded.pixels - whole).mean() < 10


@pytest.mark.parametrize("end", [1, 2, 3, 4])
def test_jpeg_without_end_mark_loses_nothing(end: int) -> None:
    data = ROWS["jpeg"]
    decoded = decode_with_notes(data[:-end])
    assert decoded.notes == (TRUNCATED,)
    difference = np.abs(decoded.pixels.astype(int) - decode(data))
    assert difference[:-16].max() == 0
    if end <= 2:
        assert difference.max() == 0


def test_cut_jpegs_of_phones_are_reduced_like_whole_ones() -> None:
    large = encode(PICTURE.resize((2400, 1800)), "JPEG")
    decoded = decode_with_notes(large[: len(large) // 2])
    assert decoded.pixels.shape == decode(large).shape == (900, 1200, 3)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG"])
def test_cut_after_the_first_page_loses_only_the_others(kind: str) -> None:
    frames = [PICTURE, PICTURE.rotate(90), PICTURE.rotate(180)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    first = decode(data)
    for share in (0.5, 0.6, 0.9):
        decoded = decode_with_notes(data[: int(len(data) * share)])
        np.testing.assert_array_equal(decoded.pixels, first)


def test_nothing_decoded_is_broken() -> None:
    for kind, data in ROWS.items():
        start = {"jpeg": 640, "gray jpeg": 340, "cmyk jpeg": 700, "restart markers": 640}
        for end in range(1, min(start.get(kind, 60), len(data)), 7):
            try:
                decoded = decode_with_notes(data[:end], name=named(kind))
            except ImageError as error:
                assert str(error).startswith(named(kind))  # noqa: PT017
            else:
                assert TRUNCATED in decoded.notes
                assert np.ptp(decoded.pixels) > 0


def test_missing_rows_do_not_change_the_brightness_of_deep_images() -> None:
    values = (np.asarray(GRAY).astype(np.uint16) + 1000) * 10
    data = encode(Image.fromarray(values), "PNG")
    whole = decode(data).astype(int)
    decoded = decode_with_notes(data[: len(data) * 4 // 5])
    assert set(decoded.notes) == {TRUNCATED, BY_PERCENTILES}
    assert np.abs(decoded.pixels[:80] - whole[:80]).mean() < 6


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    out, position = [], 8
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        out.append((kind, data[position + 8 : position + 8 + length]))
        position += 12 + length
    return out


def png(parts: list[tuple[bytes, bytes]], *, wrong: bytes = b"") -> bytes:
    out = b"\x89PNG\r\n\x1a\n"
    for kind, body in parts:
        crc = zlib.crc32(kind + body) ^ (kind == wrong)
        out += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)
    return out


LONG = zlib.compress(b"x" * 3_000_000)
TEXTS = {
    "zTXt": (b"zTXt", b"Comment\0\0" + LONG),
    "iTXt": (b"iTXt", b"Comment\0\1\0en\0Kommentar\0" + LONG),
    "tEXt": (b"tEXt", b"Comment\0" + b"x" * 3_000_000),
}


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("kind", TEXTS)
def test_long_texts_in_a_png_do_not_matter(kind: str, place: str) -> None:
    parts = chunks(ROWS["png"])
    parts.insert(1 if place == "first" else len(parts) - 1, TEXTS[kind])
    decoded = decode_with_notes(png(parts), options=STRICT)
    np.testing.assert_array_equal(decoded.pixels, np.asarray(PICTURE))
    assert decoded.notes == ()
    assert read_header(png(parts)).width == 160


def test_many_texts_and_a_huge_profile_do_not_cost_the_pixels() -> None:
    header, *rest = chunks(ROWS["png"])
    texts = [(b"tEXt", b"k\0" + b"x" * 900_000)] * 80
    profile = (b"iCCP", b"k\0\0" + zlib.compress(bytes(20 << 20), 9))
    for extra in (texts, [profile]):
        assert np.array_equal(decode(png([header, *extra, *rest])), decode(ROWS["png"]))


def test_a_few_bytes_of_a_vast_image_are_refused_at_once() -> None:
    size = struct.pack("<HH", 65535, 65535)
    data = b"GIF89a" + size + b"\xf0\0\0" + bytes(6) + b"," + bytes(4) + size + b"\0\2\2D\1\0;"
    with pytest.raises(ImageError):
        decode(data)


def test_the_limit_of_pillow_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for kind in ("png", "tiff", "bmp", "gif"):
        assert decode(ROWS[kind]).shape == (120, 160, 3)


def test_large_color_profile_of_a_png_is_used() -> None:
    from PIL import ImageCms

    from tests.unit.test_decode import swapped_profile

    profile = swapped_profile(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    padded = struct.pack(">I", 2_000_000) + profile[4:] + bytes(2_000_000 - len(profile))
    parts = chunks(ROWS["png"])
    parts.insert(1, (b"iCCP", b"swapped\0\0" + zlib.compress(padded)))
    decoded = decode(png(parts)).astype(int)
    swapped = np.asarray(PICTURE)[:, :, [1, 0, 2]]
    assert np.abs(decoded - swapped).mean() < 4


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"IEND", b"tEXt"])
def test_wrong_checksums_in_a_png(kind: bytes) -> None:
    parts = chunks(ROWS["png"])
    parts.insert(1, (b"tEXt", b"a\0b"))
    decoded = decode_with_notes(png(parts, wrong=kind))
    np.testing.assert_array_equal(decoded.pixels, np.asarray(PICTURE))
    assert decoded.notes in ((), (DAMAGED,))


def test_png_with_a_wrong_byte_is_decoded_up_to_it() -> None:
    data = bytearray(ROWS["png"])
    data[len(data) // 2] ^= 0xFF
    decoded = decode_with_notes(bytes(data))
    assert decoded.notes == (DAMAGED,)
    assert (decoded.pixels[:30] == np.asarray(PICTURE)[:30]).all()
    with pytest.raises(ImageError, match="broken image"):
        decode(bytes(data), options=STRICT)


@pytest.mark.parametrize("kind", [*ROWS, *WHOLE])
def test_random_damage_gives_an_image_or_an_image_error(kind: str) -> None:
    data = {**ROWS, **WHOLE}[kind]
    rng = np.random.default_rng(len(data))
    for _ in range(25):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 12)):
            damaged[place] = rng.integers(0, 256)
        _decodes_or_refuses(bytes(damaged[: rng.integers(1, len(data) + 1)]), named(kind))


@pytest.mark.parametrize("kind", [*ROWS, *WHOLE])
def test_damaged_headers_give_an_image_or_an_image_error(kind: str) -> None:
    data = {**ROWS, **WHOLE}[kind]
    rng = np.random.default_rng(1)
    for _ in range(20):
        damaged = bytearray(data)
        damaged[int(rng.integers(4, 64))] = int(rng.integers(0, 256))
        _decodes_or_refuses(bytes(damaged), named(kind))


def _decodes_or_refuses(data: bytes, name: str) -> None:
    """Decode a file, which must work or raise an ImageError with a reason."""
    options = DecodeOptions(max_megapixels=1)  # damaged headers may claim to be huge
    calls: list[Callable[[], object]] = [
        lambda: decode(data, name=name, options=options),
        lambda: read_header(data, name=name),
    ]
    for call in calls:
        try:
            call()
        except ImageError as error:
            assert str(error).startswith(f"{name}: ")  # noqa: PT017
            assert len(str(error)) > len(name) + 5  # noqa: PT017


def test_damaged_files_are_decoded_alike_by_many_threads() -> None:
    cut = [data[: len(data) * 2 // 3] for data in ROWS.values()]
    names = [named(kind) for kind in ROWS]

    def work(number: int) -> NDArray[np.uint8]:
        return decode(cut[number % len(cut)], name=names[number % len(cut)])

    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(work, range(4 * len(cut))))
    for number, image in enumerate(decoded):
        np.testing.assert_array_equal(image, decoded[number % len(cut)])
