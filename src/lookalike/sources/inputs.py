"""What users pass as images, one or many; the only place that decides what an image argument is.

:func:`as_images` is behind every ``encode`` and every image query. It takes the forms of
:data:`OneImage`, alone or several of them. Shapes of arrays:

============== ====================================================================
``(H, W)``     one gray image
``(H, W, C)``  one image: C is 1 (gray), 3 (RGB) or 4 (RGB and alpha)
``(N, H, W)``  N gray images, where W is not 1, 3 or 4
``(N, H, W, C)``  N images
============== ====================================================================

So an array ``(80, 100, 3)`` is one image, not 80 gray ones of three columns: pass those as
``(80, 100, 3, 1)``; and ``(3, 80, 100)`` is three gray images. Tensors of torch have their channels
first, ``(C, H, W)`` and ``(N, C, H, W)`` with C of 1, 3 or 4; where there is no such axis, they are
read like arrays.

Arrays are uint8. Any other type of numbers needs ``value_range``, the values of black and white:
pixels of 0 to 1 and of 0 to 255 cannot be told apart by looking at them.
"""

from __future__ import annotations

import inspect
import io
import math
import numbers
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike.errors import ImageError, InputError, LookalikeError, SettingError
from lookalike.files import escape_name, expand_home, is_url
from lookalike.images.decode import decode
from lookalike.images.formats import supported_suffixes
from lookalike.images.options import DEFAULT_OPTIONS
from lookalike.images.raster import decoder_errors
from lookalike.sources.base import Item, ItemSource, Source, failure_reason
from lookalike.sources.opening import file_item, native_path, open_items, open_source
from lookalike.sources.options import SourceOptions
from lookalike.types import ImageArray, ProgressCallback, ignore_progress


class BinaryFile(Protocol):
    """A file opened for reading bytes, or anything else with such a method ``read``."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the bytes from the current position."""
        ...


class HasImage(Protocol):
    """An item of a source or a gallery, or anything else that returns its image."""

    def image(self) -> ImageArray:
        """Return the image, ``(H, W)`` or ``(H, W, 3)`` uint8."""
        ...


class Tensor(Protocol):
    """A tensor of torch."""

    def detach(self) -> Any:
        """Return the tensor without its gradient."""
        ...


OneImage = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryFile
    | Image.Image
    | NDArray[Any]
    | Tensor
    | HasImage
)
"""One image: a path or the URI of an item (``photo.jpg``, ``stack.tif#2``,
``dataset:digits/test#17``); the bytes of a file; a file object, read from its current position; a
PIL image; an array or a tensor; an item of a source or gallery. URLs only where they are allowed.
"""

ManyImages = Iterable[OneImage]
"""Several images: a list, a source, or an array or tensor with one axis more."""

_FORMS = (
    "a path, the bytes of an image file, a binary file object, a PIL image, a uint8 array (H, W), "
    "(H, W, 3) or (H, W, 4), a torch tensor, an item of a source or gallery, or several of these"
)

_CHANNELS = (1, 3, 4)

_NUMBERS = "buif"
"""Kinds of numpy types that are numbers."""

ValueRange = tuple[float, float]
"""The values of black and white."""

_loading = threading.Lock()
"""PIL images load on first use, which two threads must not do at once with one of them."""


@dataclass(frozen=True, slots=True)
class InputImage:
    """One image that a user passed, not yet decoded.

    ``name`` is for messages: the path, or the argument with the image's position. ``uri`` is its
    path or URL, if it has one; ``item_id`` the id of an item.
    """

    name: str
    uri: str | None
    item_id: str | None
    _origin: Item | Callable[[bool], ImageArray] = field(repr=False, compare=False)

    def image(self, *, full_size: bool = False) -> ImageArray:
        """Return the image, ``(H, W)`` or ``(H, W, 3)`` uint8.

        ``full_size`` is that of :func:`lookalike.images.decode.decode`.

        Raises:
            ImageError: it cannot be read or decoded; the message has its name.
        """
        if isinstance(self._origin, Item):
            return self._origin.image(full_size=full_size)
        return self._origin(full_size)

    def file_bytes(self) -> bytes:
        """Return the image file as it is, or a PNG of the pixels where there is none.

        A further page of a file, and an image that is decoded with options of its own, is a PNG,
        too: whoever reads the file would see another image.

        Raises:
            ImageError: it cannot be read; the message has its name.
        """
        if isinstance(self._origin, Item):
            item = self._origin
            with item.in_memory():
                content = item.content()
                if item.page or item.options != DEFAULT_OPTIONS:
                    content = item.decode(content, full_size=True).pixels
        else:
            content = self._origin(True)
        if isinstance(content, bytes):
            return content
        file = io.BytesIO()
        Image.fromarray(content).save(file, "PNG")
        return file.getvalue()


@dataclass(frozen=True, slots=True)
class InputImages(Sequence[InputImage]):
    """The images of an argument; ``single`` if it was one image, not a list of one."""

    images: tuple[InputImage, ...]
    single: bool

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> InputImage: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[InputImage, ...]: ...
    def __getitem__(self, index: int | slice) -> InputImage | tuple[InputImage, ...]:
        return self.images[index]

    def __iter__(self) -> Iterator[InputImage]:
        return iter(self.images)

    def __repr__(self) -> str:
        return f"<{len(self)} images>" if not self.single else f"<image {self.images[0].name}>"


def as_images(
    images: object,
    *,
    argument: str = "images",
    value_range: ValueRange | None = None,
    allow_urls: bool = False,
    allow_private_urls: bool = False,
) -> InputImages:
    """Return the images of an argument, which are read and decoded when they are needed.

    File objects are read at once, from their current position.

    Args:
        images: one :data:`OneImage` or several.
        argument: the name of the argument in messages.
        value_range: values of black and white in arrays that are not uint8, as ``(0, 1)``.
        allow_urls: fetch URLs.
        allow_private_urls: fetch URLs also from hosts that are not on the public internet.

    Raises:
        InputError: not an image or images, none at all, numbers that are not uint8 without
            ``value_range``, or a URL that is not allowed.
        SettingError: ``value_range`` is no range.
    """
    single, inputs = stream_images(
        images,
        argument=argument,
        value_range=value_range,
        allow_urls=allow_urls,
        allow_private_urls=allow_private_urls,
    )
    return InputImages(tuple(inputs), single)


def stream_images(
    images: object,
    *,
    argument: str = "images",
    value_range: ValueRange | None = None,
    allow_urls: bool = False,
    allow_private_urls: bool = False,
) -> tuple[bool, Iterator[InputImage]]:
    """Return whether an argument is one image, and its images one after the other.

    Like :func:`as_images`, without holding the images of a generator in memory; what is wrong with
    an image after the first is raised when it is reached.

    Raises:
        InputError: as of :func:`as_images`.
        SettingError: ``value_range`` is no range.
    """
    if value_range is not None:
        value_range = _check_range(value_range)
    options = SourceOptions(allow_private_urls=allow_private_urls)
    reader = _Reader(argument, value_range, options if allow_urls or allow_private_urls else None)
    if (one := reader.one(images, argument)) is not None:
        return True, iter((one,))
    several = reader.several(images)
    first = next(several, None)
    if first is None:
        raise InputError(f"{argument}: has no images; pass {_FORMS}")
    return False, _chained(first, several)


def _chained(first: InputImage, rest: Iterator[InputImage]) -> Iterator[InputImage]:
    yield first
    del first
    yield from rest


SourceLike = Source | OneImage | ManyImages
"""Where images come from: an argument of :func:`~lookalike.sources.opening.open_source`, an opened
source, or images."""


def as_source(
    images: SourceLike,
    on_progress: ProgressCallback = ignore_progress,
    *,
    argument: str = "images",
    allow_urls: bool = False,
) -> Source:
    """Return a source as it is, open one, or make one of images, which are decoded when needed.

    Args:
        images: a :data:`SourceLike`.
        on_progress: called during downloads.
        argument: the name of the argument in messages.
        allow_urls: fetch URLs of images.

    Raises:
        SourceError: the path does not exist, or has no images.
        InputError: neither a source nor images.
    """
    if isinstance(images, str | os.PathLike) and not _is_image_uri(text := os.fspath(images)):
        return open_source(text, on_progress)
    if isinstance(images, Source):
        return images
    items = [
        Item(image.item_id or f"{argument}:{number}", image.uri or image.name, {}, image.image)
        for number, image in enumerate(as_images(images, argument=argument, allow_urls=allow_urls))
    ]
    return ItemSource(argument, f"{len(items):,} images", items)


def _is_image_uri(text: str) -> bool:
    """Return whether a path or URI is that of one image, not of a source."""
    suffix = os.path.splitext(text)[1].lower()  # noqa: PTH122 - a text
    return is_url(text) or "#" in text or suffix in supported_suffixes()


def count_of(images: object) -> int | None:
    """Return how many images an argument of several has, None if only reading it shows."""
    try:
        return len(images)  # type: ignore[arg-type]
    except TypeError:
        return None


def _check_range(value_range: object) -> ValueRange:
    try:
        if isinstance(value_range, str | bytes | Mapping | Set):
            raise TypeError("it has no order")
        low, high = (float(value) for value in value_range)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise SettingError(
            "{value_range} must be two numbers, the values of black and white, as (0, 1)",
            value_range=value_range,
        )
    return low, high


@dataclass(frozen=True, slots=True)
class _Reader:
    """Recognizes images; ``urls`` are the options for fetching URLs, None if they are refused."""

    argument: str
    value_range: ValueRange | None
    urls: SourceOptions | None

    def one(self, value: object, name: str) -> InputImage | None:
        """Return a value as one image, None if it is none.

        Args:
            value: the value.
            name: of the image in messages, if it has no path.
        """
        if isinstance(value, InputImage):
            return value
        if isinstance(value, Item):
            return InputImage(value.uri, value.uri, value.id, value)
        if isinstance(value, str | os.PathLike):
            return self._file(value, name)
        if isinstance(value, bytes | bytearray | memoryview):
            return _bytes_image(bytes(value), name)
        if isinstance(value, Image.Image):
            if not (value.width and value.height):
                raise InputError(f"{name}: has no pixels (size {value.size}); pass {_FORMS}")
            return InputImage(name, None, None, partial(_pillow_pixels, value, name))
        array = _as_array(value, name)
        if array is not None:
            return self._array(*array, name)
        if _has_method(value, "read") and (
            hasattr(value, "tell") or not hasattr(value, "__getitem__")  # a source is no file
        ):
            return _bytes_image(_read(value, name), name)
        if _has_method(value, "image") and not _is_gallery(value):
            return _foreign_image(value, name)
        return None

    def several(self, values: object) -> Iterator[InputImage]:
        """Yield the images of a list, array or anything else of several images."""
        if isinstance(values, InputImages):
            yield from values
            return
        array = _as_array(values, self.argument)
        if array is not None and array[0].dtype.kind in _NUMBERS:
            yield from self._stack(*array)
            return
        if array is not None:
            values = array[0].tolist()
        unordered = isinstance(values, Mapping | Set) or _is_gallery(values)
        if unordered or not isinstance(values, Iterable):
            raise InputError(f"{self.argument}: got {_described(values)}; pass {_FORMS}")
        for number, value in enumerate(values):
            name = f"{self.argument}[{number}]"
            image = self.one(value, name)
            if image is None:
                raise InputError(f"{name}: got {_described(value)}; pass {_FORMS}")
            yield image

    def _file(self, value: str | os.PathLike[str], name: str) -> InputImage:
        """Return the image of a path, a URI or a URL."""
        if isinstance(value, str) and is_url(value):
            if self.urls is None:
                raise InputError(
                    f"{name}: {value} is a URL, which is fetched only with {{allow_urls}}",
                    allow_urls=True,
                )
            (item,) = open_items([value], options=self.urls)
            return InputImage(value, value, None, item)
        text = os.fsdecode(value)
        if not text:
            raise InputError(f"{name}: the path is empty; pass {_FORMS}")
        text = expand_home(text)
        if os.path.isdir(native_path(text)):  # noqa: PTH112 - Path() would refuse some texts
            raise InputError(
                f"{name}: {escape_name(text)} is a folder; pass the images in it, as in "
                f"open_source({text!r}), or {_FORMS}"
            )
        if isinstance(value, str):
            (item,) = open_items([text])
        else:
            item = file_item(text, text)
        return InputImage(item.uri, item.uri, None, item)

    def _array(self, array: NDArray[Any], tensor: bool, name: str) -> InputImage | None:
        """Return an array as one image, None if it is several.

        Raises:
            InputError: it is neither; or of other numbers than uint8 without ``value_range``.
        """
        if array.dtype.kind not in _NUMBERS:
            if array.ndim == 1 and array.dtype.kind in "UTO":
                return None
            raise InputError(
                f"{name}: got an array of {array.dtype} and shape {array.shape}; pass {_FORMS}"
            )
        layout = _layout(array.shape, tensor)
        if layout is None or (layout.several and name != self.argument):
            what = "a tensor" if tensor else "an array"
            raise InputError(
                f"{name}: {what} of shape {array.shape} is not "
                f"{'an image' if layout is None else 'one image'}; "
                f"pass {_TENSORS if tensor else _ARRAYS}"
            )
        if not array.size:
            raise InputError(f"{name}: has no pixels (shape {array.shape}); pass {_FORMS}")
        self._check_type(array, name)
        if layout.several:
            return None
        pixels = np.moveaxis(array, 0, -1) if layout.channels_first else array
        return self._array_image(pixels, name)

    def _stack(self, array: NDArray[Any], tensor: bool) -> Iterator[InputImage]:
        """Yield the images of an array of several, which :meth:`_array` has checked."""
        layout = _layout(array.shape, tensor)
        assert layout is not None
        pixels = np.moveaxis(array, 1, -1) if layout.channels_first else array
        for number, image in enumerate(pixels):
            yield self._array_image(image, f"{self.argument}[{number}]")

    def _array_image(self, array: NDArray[Any], name: str) -> InputImage:
        item = Item(name, name, {}, partial(_array_pixels, array, name, self.value_range))
        return InputImage(name, None, None, item)

    def _check_type(self, array: NDArray[Any], name: str) -> None:
        if array.dtype == np.uint8 or self.value_range is not None:
            return
        message = f"{name}: an array of {array.dtype} needs {{value_range}}, the values of black"
        limit = _likely_limit(array)
        if limit is None:
            raise InputError(f"{message} and white, or convert it to uint8", value_range=None)
        raise InputError(
            f"{message} and white; its values look like value_range=(0, {limit})", value_range=None
        )


_ARRAYS = "(H, W), (H, W, 3) or (H, W, 4), or an array of several, (N, H, W) or (N, H, W, 3)"
_TENSORS = "(H, W), (C, H, W) or (H, W, C) with 1, 3 or 4 channels, or (N, C, H, W) for several"


@dataclass(frozen=True, slots=True)
class _Layout:
    several: bool
    channels_first: bool = False


def _layout(shape: tuple[int, ...], tensor: bool) -> _Layout | None:
    """Return how the pixels of an array lie; None if it is no image and no images."""
    if len(shape) not in (2, 3, 4):
        return None
    several = len(shape) == 4
    if tensor and len(shape) > 2 and shape[-3] in _CHANNELS:
        return _Layout(several, channels_first=True)
    if len(shape) == 2 or shape[-1] in _CHANNELS:
        return _Layout(several)
    return None if several else _Layout(several=True)


def _likely_limit(array: NDArray[Any]) -> int | None:
    """Return the value that white seems to have, for a message: 1, 255 or 65535."""
    low, high = float(np.min(array)), float(np.max(array))
    return next((limit for limit in (1, 255, 65535) if 0 <= low <= high <= limit), None)


def _as_array(value: object, name: str) -> tuple[NDArray[Any], bool] | None:
    """Return an array, and whether it was a tensor of torch; None if it is neither."""
    if isinstance(value, np.ndarray):
        return np.asarray(value), False
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _tensor_array(value, torch, name), True
    if hasattr(value, "__array__") and hasattr(value, "shape") and not isinstance(value, type):
        try:
            return np.asarray(value), False
        except Exception as error:
            raise InputError(f"{name}: is no array of numbers ({failure_reason(error)})") from error
    return None


def _tensor_array(tensor: Any, torch: Any, name: str) -> NDArray[Any]:
    """Return a tensor's values, wherever it is and whether or not it has a gradient."""
    try:
        values = tensor.detach().cpu().resolve_neg()
        return np.asarray((values.float() if values.dtype == torch.bfloat16 else values).numpy())
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InputError(
            f"{name}: a tensor of {tensor.dtype} on {tensor.device} cannot be read "
            f"({failure_reason(error)}); pass {_TENSORS}"
        ) from error


def _array_pixels(array: NDArray[Any], name: str, value_range: ValueRange | None) -> ImageArray:
    """Return ``(H, W)`` or ``(H, W, 3)`` uint8 for one image of any numbers and 1 to 4 channels."""
    pixels = array if array.dtype == np.uint8 else _in_8_bits(array, name, value_range)
    if pixels.shape[2:] == (1,):
        return pixels[..., 0]
    if pixels.shape[2:] == (4,):
        rgba = Image.fromarray(np.ascontiguousarray(pixels), "RGBA")
        return decode(rgba, name=name, full_size=True)
    return pixels


def _in_8_bits(array: NDArray[Any], name: str, value_range: ValueRange | None) -> ImageArray:
    """Map numbers to 0 to 255.

    Raises:
        ImageError: a value is NaN or outside the range.
    """
    assert value_range is not None  # checked when the argument was read
    low, high = value_range
    smallest, largest = float(np.min(array)), float(np.max(array))
    if not low <= smallest <= largest <= high:  # so it is with NaN
        has = "NaN" if math.isnan(smallest) else f"values from {smallest:g} to {largest:g}"
        raise ImageError(
            f"{name}: has {has}, outside {{value_range}}; "
            "clip them, or give the values of black and white",
            value_range=f"({low:g}, {high:g})",
        )
    values = (array.astype(np.float64) - low) * (255 / (high - low))
    return np.rint(values).astype(np.uint8)


def _bytes_image(data: bytes, name: str) -> InputImage:
    return InputImage(name, None, None, Item(name, name, {}, lambda: data))


def _pillow_pixels(image: Image.Image, name: str, full_size: bool) -> ImageArray:
    with _loading, decoder_errors(name):
        image.load()
    return decode(image, name=name, full_size=full_size)


def _read(file: Any, name: str) -> bytes:
    """Return the bytes of a file object from its current position.

    Raises:
        InputError: it is a file of text, or its bytes must be awaited.
        ImageError: it cannot be read.
    """
    if inspect.iscoroutinefunction(file.read) and callable(
        getattr(getattr(file, "file", None), "read", None)
    ):
        file = file.file  # an upload of a web framework
    try:
        data = file.read() if not inspect.iscoroutinefunction(file.read) else None
    except UnicodeDecodeError:
        data = ""
    except LookalikeError:
        raise
    except Exception as error:
        raise ImageError(f"{name}: cannot be read ({failure_reason(error)})") from error
    if inspect.iscoroutine(data):
        data.close()
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    if isinstance(data, str):
        raise InputError(f"{name}: the file is opened as text; open it with mode 'rb'")
    raise InputError(
        f"{name}: reading {_described(file)} does not return bytes; if it must be awaited, pass "
        "the bytes"
    )


def _foreign_image(value: Any, name: str) -> InputImage:
    """Return the image of an object with a method ``image``."""
    uri, item_id = (
        text if isinstance(text := getattr(value, each, None), str) else None
        for each in ("uri", "id")
    )
    name = uri or item_id or name
    return InputImage(name, uri, item_id, partial(_called, value, name))


def _called(value: Any, name: str, full_size: bool) -> ImageArray:
    try:
        takes_size = "full_size" in inspect.signature(value.image).parameters
        image = value.image(full_size=True) if full_size and takes_size else value.image()
    except LookalikeError:
        raise
    except Exception as error:
        raise ImageError(f"{name}: cannot be read ({failure_reason(error)})") from error
    return as_images(image, argument=name)[0].image(full_size=full_size)


def _has_method(value: object, name: str) -> bool:
    return callable(getattr(value, name, None)) and not isinstance(value, type)


def _is_gallery(value: object) -> bool:
    """Return whether this is a gallery: what it lists are ids, not paths."""
    return _has_method(value, "search")


def _described(value: object) -> str:
    """Return a value for a message: None, or the name of its type."""
    if value is None:
        return "None"
    kind = type(value).__name__
    number = isinstance(value, numbers.Number)
    return f"{kind} {value!r}" if number and len(repr(value)) <= _LONGEST else kind


_LONGEST = 40
