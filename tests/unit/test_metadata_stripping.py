"""Files without their metadata show the same image, and no longer say where it was taken."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from lookalike.images import metadata_stripping
from lookalike.images.metadata_stripping import Part, size_of, strip_metadata

SECRET = b"50.12345N secret place"
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif(orientation: int = 6) -> bytes:
    """Return EXIF data of a phone, with a position."""
    tags = Image.Exif()
    tags[ExifTags.Base.Make] = SECRET.decode()
    tags[ExifTags.Base.Orientation] = orientation
    gps = tags.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef] = "N"
    gps[ExifTags.GPS.GPSLatitude] = (50.0, 7.0, 24.0)
    return tags.tobytes()


def picture(kind: str, orientation: int = 6) -> bytes:
    """Return a file with all the metadata that its format has."""
    file = io.BytesIO()
    image = Image.fromarray(PIXELS)
    if kind == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Comment", SECRET.decode())
        texts.add_itxt("XML:com.adobe.xmp", SECRET.decode())
        texts.add(b"prVt", SECRET)
        image.save(file, kind, pnginfo=texts, exif=exif(orientation), icc_profile=PROFILE)
    elif kind == "GIF":
        image.quantize().save(file, kind, comment=SECRET)
    elif kind == "BMP":
        image.save(file, kind)
    else:
        extra = {"comment": SECRET} if kind == "JPEG" else {}
        image.save(
            file, kind, exif=exif(orientation), icc_profile=PROFILE, xmp=b"<x>" + SECRET, **extra
        )
    return file.getvalue() + SECRET


def stripped(data: bytes, kind: str) -> bytes | None:
    parts = strip_metadata(io.BytesIO(data), kind)
    if parts is None:
        return None
    joined = joined_parts(data, parts)
    assert len(joined) == size_of(parts)
    return joined


def joined_parts(data: bytes, parts: Sequence[Part]) -> bytes:
    return b"".join(
        data[part.start : part.stop] if isinstance(part, range) else part for part in parts
    )


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_image_is_left(kind: str) -> None:
    data = picture(kind)
    clean = stripped(data, kind)
    assert clean is not None
    assert SECRET in data
    assert SECRET not in clean
    before, after = opened(data), opened(clean)
    assert np.array_equal(np.asarray(before), np.asarray(after))
    assert before.info.get("icc_profile") == after.info.get("icc_profile")
    left = after.getexif()
    assert not left.get_ifd(ExifTags.IFD.GPSInfo)
    assert set(left) <= {ExifTags.Base.Orientation}
    assert left.get(ExifTags.Base.Orientation) == before.getexif().get(ExifTags.Base.Orientation)
    assert stripped(clean, kind) == clean


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_kept(kind: str, orientation: int) -> None:
    clean = stripped(picture(kind, orientation), kind)
    assert clean is not None
    assert opened(clean).getexif().get(ExifTags.Base.Orientation, 1) == orientation


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 2, "quality": 30}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_kinds_of_jpegs(mode: str, options: dict[str, int]) -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, "JPEG", exif=exif(), **options)
    clean = stripped(file.getvalue(), "JPEG")
    assert clean is not None
    assert np.array_equal(np.asarray(opened(clean)), np.asarray(opened(file.getvalue())))


def test_a_preview_and_further_images_are_removed() -> None:
    preview = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(preview, "JPEG")
    jfif = b"JFIF\0\1\2\0\0\1\0\1\1\1" + SECRET[:3]
    segment = b"\xff\xe0" + struct.pack(">H", len(jfif) + 2) + jfif
    mpf = b"\xff\xe2" + struct.pack(">H", 6 + len(SECRET)) + b"MPF\0" + SECRET
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG")
    data = b"\xff\xd8" + segment + mpf + file.getvalue()[2:] + preview.getvalue()
    clean = stripped(data, "JPEG")
    assert clean is not None
    assert clean.count(b"\xff\xd8") == 1
    assert b"MPF" not in clean
    assert np.array_equal(np.asarray(opened(clean)), np.asarray(opened(file.getvalue())))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_stay_animated(kind: str) -> None:
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "green", "blue")]
    file = io.BytesIO()
    frames[0].save(
        file, kind, save_all=True, append_images=frames[1:], duration=[70, 80, 90], loop=3
    )
    clean = stripped(file.getvalue() + SECRET, kind)
    assert clean is not None
    assert SECRET not in clean
    before, after = opened(file.getvalue()), opened(clean)
    for number in range(3):
        before.seek(number)
        after.seek(number)
        assert np.array_equal(np.asarray(before), np.asarray(after))
        assert before.info.get("duration") == after.info.get("duration")
    assert getattr(after, "n_frames", 1) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_ends_early_is_encoded_anew(kind: str) -> None:
    data = picture(kind).removesuffix(SECRET)
    for size in (0, 1, 7, 30, len(data) // 2, len(data) - 1):
        assert stripped(data[:size], kind) is None


def many_scans() -> bytes:
    data = picture("JPEG").removesuffix(SECRET)
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start : start + 16] * 200_000 + data[-2:]


def many_blocks() -> bytes:
    data = picture("GIF").removesuffix(SECRET)
    return data[:-1] + b"\x21\xfe" + b"\1x" * 1_000_000 + b"\0\x3b"


def many_chunks() -> bytes:
    data = picture("PNG").removesuffix(SECRET)
    return data[:-12] + b"\0\0\0\0teXt\0\0\0\0" * 500_000 + data[-12:]


@pytest.mark.parametrize("made", [many_scans, many_blocks, many_chunks])
def test_a_file_of_many_pieces_is_read_a_limited_number_of_times(
    made: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece costs a few reads, none of which is long; a file of too many is refused."""

    class Counting(io.BytesIO):
        size = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            Counting.size += len(data)
            return data

    data = made()
    monkeypatch.setattr(metadata_stripping, "_MAX_READS", 100_000)
    assert strip_metadata(Counting(data), KIND[data[:2]]) is None
    assert Counting.size < 100_000 * 2 * 1024


KIND = {b"\xff\xd8": "JPEG", b"\x89P": "PNG", b"GI": "GIF"}


def test_other_formats_are_encoded_anew() -> None:
    assert strip_metadata(io.BytesIO(b"II*\0"), "TIFF") is None


@given(
    kind=st.sampled_from(KINDS),
    changes=st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 255)), min_size=1, max_size=8),
)
@settings(max_examples=300, deadline=None)
def test_a_changed_file_is_stripped_or_encoded_anew(
    kind: str, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(FILES[kind])
    for place, value in changes:
        data[place % len(data)] = value
    clean = stripped(bytes(data), kind)
    if clean is not None:
        assert stripped(clean, kind) == clean


FILES = {kind: picture(kind) for kind in KINDS}
