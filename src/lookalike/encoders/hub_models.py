"""Encoders from published ONNX models: of the hub, in a folder, or a file of one's own.

Only ONNX Runtime is needed, and for text queries tokenizers: neither torch nor transformers. What
is opened is one network of images, or one of images and one of texts:

- ``hub:OWNER/NAME``, ``onnx:FOLDER`` and ``onnx:FILE`` in such a folder: the layout of
  :mod:`lookalike.encoders.model_files`. Images are prepared as ``preprocessor_config.json`` says
  (:mod:`lookalike.encoders.image_processor`), texts as the kind of model was trained
  (:mod:`lookalike.encoders.tokenization`), and the embedding is chosen by its name
  (:mod:`lookalike.encoders.embedding_outputs`).
- ``onnx:FILE`` with ``FILE.json`` beside it, which describes the input: a network of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.documents import Fields, read_json
from lookalike.encoders.backbones import HUB_PREFIX, ONNX_PREFIX
from lookalike.encoders.base import MAX_SIDE, MAX_VALUE, MIN_CROP, MIN_STD, Preprocessing
from lookalike.encoders.embedding_outputs import has_texts, image_network, text_network
from lookalike.encoders.image_processor import read_image_processor
from lookalike.encoders.image_text import ImageTextEncoder
from lookalike.encoders.model_files import (
    CONFIG,
    PREPROCESSOR,
    PROCESSOR,
    TOKENIZER,
    TOKENIZER_CONFIG,
    FolderFiles,
    HubFiles,
    Layout,
    ModelFiles,
    find_layout,
    layout_of_file,
)
from lookalike.encoders.onnx import NetworkEncoder, OnnxModel
from lookalike.encoders.onnx_files import MAX_MODEL, with_external_data
from lookalike.encoders.onnx_parts import extract, read_signature
from lookalike.encoders.options import ModelOptions, split_path
from lookalike.encoders.tokenization import text_tokenizer
from lookalike.errors import ArtifactError, InputError
from lookalike.files import expand_home, read_regular
from lookalike.images.decode import FILTERS
from lookalike.types import ImageArray
from lookalike.vectors import unit_rows

_DESCRIPTIONS = (CONFIG, PREPROCESSOR, TOKENIZER, TOKENIZER_CONFIG)
_WEIGHTS_ENDING = "_data"
_MAX_LOGIT = 1e6


def open_hub(name: str, sample: Sequence[ImageArray] = ()) -> NetworkEncoder:
    """Open ``hub:OWNER/NAME[@REVISION][,dtype=q8][,output=NAME][,pooling=NAME]``.

    Its files are downloaded unless they are in the cache, only those that are needed.

    Args:
        name: with the prefix.
        sample: ignored; every encoder is opened with one.

    Returns:
        An :class:`ImageTextEncoder` if the model embeds texts, too.

    Raises:
        FetchError: the model cannot be downloaded.
        InputError: it has no network that can be run, or needs more to prepare its images than is
            known.
        ArtifactError: a file is broken.
    """
    from lookalike.hub import open_model

    del sample
    text, *texts = name.removeprefix(HUB_PREFIX).split(",")
    options = ModelOptions.parse(name, texts)
    repo, _, revision = text.partition("@")
    files = HubFiles(open_model(repo, revision or "main"))
    return _open(name, files, find_layout(files, options, name=name), options)


def open_onnx(name: str, sample: Sequence[ImageArray] = ()) -> NetworkEncoder:
    """Open ``onnx:PATH[,dtype=q8][,output=NAME][,pooling=NAME]``: a folder, or a file.

    A folder has the layout of models on the hub. A file is described by a JSON file beside it, with
    the suffix ``.json``, or it is a network in such a folder. The fields of the JSON file are
    ``size`` (pixels, or ``[height, width]``), and optionally ``channels`` (default 3), ``mean`` and
    ``std`` of values in [0, 1] (one number, or one for each channel; default 0 and 1), ``filter``
    (such as ``bilinear`` or ``bicubic``), ``crop`` (center crop as a share of the shorter side;
    default: stretch the whole image), ``normalize`` (unit length; default true), and ``output`` and
    ``pooling`` (which output is the embedding, if the model has several, and how it is pooled).

    Args:
        name: with the prefix.
        sample: ignored; every encoder is opened with one.

    Raises:
        InputError: a file is missing, or a field is missing, unknown or invalid.
        UnknownNameError: there is no such output or pooling.
        ArtifactError: ONNX Runtime cannot load the model.
    """
    del sample
    text, texts = split_path(name.removeprefix(ONNX_PREFIX))
    options = ModelOptions.parse(name, texts)
    if not text.strip():
        raise InputError(f"encoder {name!r}: names no network; write onnx:FOLDER or onnx:FILE")
    path = Path(expand_home(text))
    if path.is_dir():
        return open_model_folder(path, name=name, options=options)
    config = path.with_suffix(".json")
    root = path.parent.parent if path.parent.name == "onnx" else path.parent
    if path.is_file() and not config.is_file() and _describes(root):
        files = FolderFiles(root)
        return _open(name, files, layout_of_file(files, path.relative_to(root).as_posix()), options)
    return _open_file(name, path, config, options)


def open_model_folder(
    folder: Path, *, name: str, options: ModelOptions | None = None
) -> NetworkEncoder:
    """Open a folder in the layout of models on the hub, as :func:`open_hub` does.

    Args:
        folder: with the networks in ``onnx/`` or directly in it.
        name: of the encoder.
        options: precision, output and pooling, if they are named.

    Raises:
        InputError: as by :func:`open_hub`.
        ArtifactError: a file is broken.
    """
    files = FolderFiles(folder)
    options = options or ModelOptions()
    return _open(name, files, find_layout(files, options, name=name), options)


def _describes(root: Path) -> bool:
    return any((root / each).is_file() for each in (PREPROCESSOR, PROCESSOR))


def _open(name: str, files: ModelFiles, layout: Layout, options: ModelOptions) -> NetworkEncoder:
    """Open the networks of a layout."""
    place = f"encoder {name!r}"
    _download(files, layout, place)
    config = files.read_json(CONFIG)
    model = files.read_model(layout.image)
    is_combined = layout.text is None and has_texts(model, name=name)
    image = image_network(model, config, options, name=name)
    preprocessing = _read_preprocessing(files, image, name)
    origin = {**files.origin(), "dtype": layout.dtype}
    if not is_combined and layout.text is None:
        origin["files"] = files.hashes
        return _checked(NetworkEncoder(name, image, preprocessing, normalized=True, origin=origin))
    logits = _logits(model, preprocessing, name) if is_combined else None
    text = text_network(model if layout.text is None else files.read_model(layout.text), name=name)
    if not files.has(TOKENIZER):
        raise InputError(f"{place}: has a network of texts, but no {TOKENIZER}")
    shapes = [each.shape for each in read_signature(text, name=place).inputs if each.shape]
    length = next((shape[1] for shape in shapes if len(shape) == 2), None)
    tokenizer = text_tokenizer(
        files.read(TOKENIZER),
        config,
        files.read_json(TOKENIZER_CONFIG),
        length=length,
        place=f"{place}: {TOKENIZER}",
    )
    origin |= {"files": files.hashes} | ({"logits": logits} if logits else {})
    encoder = ImageTextEncoder(
        name, image, preprocessing, text=text, tokenizer=tokenizer, origin=origin
    )
    _check_text(encoder, text, length)
    return _checked(encoder)


def _download(files: ModelFiles, layout: Layout, place: str) -> None:
    """Have all files that are needed on this machine, so that their size is told at once.

    Raises:
        InputError: a network is too large to be run.
    """
    for path in layout.networks:
        size = files.size(path) + files.size(path + _WEIGHTS_ENDING)
        if size > MAX_MODEL:
            raise InputError(
                f"{place}: {path} has {size / 1e9:.1f} GB, and at most {MAX_MODEL / 1e9:g} GB can "
                "be run in one piece; use a smaller precision, as with dtype=fp16 or dtype=q8"
            )
    paths = list(layout.networks)
    paths += [each for path in layout.networks if files.has(each := path + _WEIGHTS_ENDING)]
    paths += [each for each in _DESCRIPTIONS if files.has(each)]
    if PREPROCESSOR not in paths and files.has(PROCESSOR):
        paths.append(PROCESSOR)
    files.locate(paths)


def _read_preprocessing(files: ModelFiles, image: bytes, name: str) -> Preprocessing:
    """Return the preprocessing that the files of a model describe, for its network."""
    config = files.read_json(PREPROCESSOR)
    if not config:
        inner = files.read_json(PROCESSOR).get("image_processor")
        config = dict(inner) if isinstance(inner, Mapping) else {}
    if not config:
        raise InputError(
            f"encoder {name!r}: has no {PREPROCESSOR}, so that it is not known how its images are "
            "prepared; describe the input in a JSON file beside the network, and open that: "
            "onnx:FILE"
        )
    shape = read_signature(image, name=f"encoder {name!r}").inputs[0].shape or (None,) * 4
    channels = shape[1] or 3
    preprocessing = read_image_processor(config, name=name, channels=channels)
    expected = (shape[2] or preprocessing.height, shape[3] or preprocessing.width)
    if expected != (preprocessing.height, preprocessing.width):
        raise InputError(
            f"encoder {name!r}: its {PREPROCESSOR} makes images of {preprocessing.width}x"
            f"{preprocessing.height} pixels, but its network takes {expected[1]}x{expected[0]}"
        )
    return preprocessing


def _checked(encoder: NetworkEncoder) -> NetworkEncoder:
    """Return an encoder once it has embedded a black image."""
    p = encoder.preprocessing
    try:
        dim = encoder.dim
    except ArtifactError as error:
        raise ArtifactError(
            f"{error}; its input is an image of {p.width}x{p.height} pixels, as its files say"
        ) from error
    if dim == 1:
        raise InputError(f"encoder {encoder.name!r}: its embeddings would be one number each")
    return encoder


def _check_text(encoder: ImageTextEncoder, text: bytes, length: int | None) -> None:
    """Check that the networks of images and texts embed in one space.

    The network of texts, which is not needed to embed images, is run only if it does not say how
    long its embeddings are.
    """
    shape = read_signature(text, name=f"encoder {encoder.name!r}").outputs[0].shape or (None,)
    dim = shape[-1]
    if dim is None:
        ids = np.ones((1, length or 4), np.int64)
        dim = encoder.run_text(ids, np.ones_like(ids)).shape[1]
    if dim != encoder.dim:
        raise InputError(
            f"encoder {encoder.name!r}: embeddings have {encoder.dim:,} numbers for images and "
            f"{dim:,} for texts; its networks are without the projection into one space"
        )


def _logits(model: bytes, preprocessing: Preprocessing, name: str) -> dict[str, float] | None:
    """Return scale and bias of the logits that a model of images and texts computes.

    They are found by running it on two images and two texts: its logits are ``scale`` times the
    cosine plus ``bias``.
    """
    signature = read_signature(model, name=f"encoder {name!r}")
    outputs = ["logits_per_image", "image_embeds", "text_embeds"]
    if not all(map(signature.output, outputs)):
        return None
    part = OnnxModel(
        extract(model, outputs, name=f"encoder {name!r}"), name=f"encoder {name!r}", inputs=None
    )
    p = preprocessing
    shapes = {each.name: each.shape for each in signature.inputs}
    length = (shapes.get("input_ids") or (None, None))[1] or 8
    images = np.random.default_rng(0).normal(size=(2, p.channels, p.height, p.width))
    values = {
        "pixel_values": images.astype(np.float32),
        "input_ids": np.repeat([[1], [2]], length, axis=1),
        "attention_mask": np.ones((2, length), np.int64),
    }
    try:
        feeds = {each: values[each] for each in part.inputs}
        logits, image, text = part.run_named(feeds, outputs)
    except (KeyError, ArtifactError):
        return None
    if not all(np.isfinite(each).all() for each in (logits, image, text)):
        return None
    rows = [unit_rows(each) for each in (image, text)]
    cosines = (rows[0] @ rows[1].T).ravel().astype(np.float64)
    is_usable = np.isfinite(cosines).all() and np.abs(logits).max() < _MAX_LOGIT
    if logits.size != cosines.size or not is_usable or np.ptp(cosines) < 1e-6:
        return None
    scale, bias = np.polyfit(cosines, logits.ravel().astype(np.float64), 1)
    if np.abs(scale * cosines + bias - logits.ravel()).max() > 1e-2 * max(1.0, abs(scale)):
        return None
    return {"scale": float(scale), "bias": float(bias) if abs(bias) > 1e-3 * abs(scale) else 0.0}


# ---------------------------------------------------------------- a file of one's own

_EXAMPLE = (
    "it describes the network's input, as in "
    '{"size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}'
)


def _open_file(name: str, path: Path, config: Path, options: ModelOptions) -> NetworkEncoder:
    """Open a network that a JSON file describes."""
    try:
        model = read_regular(path)
    except OSError as error:
        raise InputError(f"encoder {name!r}: cannot be read ({error.strerror or error})") from error
    try:
        document = read_json(config, hint=_EXAMPLE, error=InputError)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"encoder {name!r}: there is no file {config}; {_EXAMPLE}") from None
    fields = Fields.of(document, str(config), hint=_EXAMPLE, error=InputError)
    fields.only(
        ("size", "channels", "mean", "std", "filter", "crop", "normalize", "output", "pooling")
    )
    preprocessing = _preprocessing(fields)
    normalize = fields.flag("normalize", True)
    if options.dtype is not None:
        raise InputError(f"encoder {name!r}: dtype is for folders and the hub; name the file")
    for option in ("output", "pooling"):
        if getattr(options, option) is None and fields.has(option):
            options = replace(options, **{option: fields.text(option)})
    model = with_external_data(model, path.parent, name=f"encoder {name!r}")
    model = image_network(model, {}, options, name=name)
    origin: dict[str, Any] = {"source": str(path.absolute()), "license": "your own"}
    return NetworkEncoder(path.stem, model, preprocessing, normalized=normalize, origin=origin)


def _preprocessing(fields: Fields) -> Preprocessing:
    if isinstance(fields.values.get("size"), list):
        sizes = fields.integers("size", 1, MAX_SIDE)
        if len(sizes) != 2:
            raise fields.invalid("size", "pixels, or [height, width]")
        height, width = sizes
    else:
        height = width = fields.integer("size", 1, MAX_SIDE)
    channels = fields.integer("channels", 1, 3, 3)
    if channels == 2:
        raise fields.invalid("channels", "1 or 3")
    return Preprocessing(
        height,
        width,
        channels,
        filter=fields.text("filter", "bilinear", allowed=FILTERS),
        crop=fields.number("crop", MIN_CROP, 1) if fields.has("crop") else None,
        mean=_per_channel(fields, "mean", 0.0, channels),
        std=_per_channel(fields, "std", 1.0, channels),
    )


def _per_channel(fields: Fields, name: str, default: float, channels: int) -> tuple[float, ...]:
    low, high = (MIN_STD, MAX_VALUE) if name == "std" else (-MAX_VALUE, MAX_VALUE)
    if not isinstance(fields.values.get(name), list):
        return (float(fields.number(name, low, high, default)),) * channels
    values = fields.numbers(name, low, high)
    if len(values) != channels:
        raise fields.invalid(name, f"a number, or a list of {channels}")
    return tuple(map(float, values))
