"""Export of image-text models of transformers to ONNX, once, into the cache.

CLIP and SigLIP, and other models that embed images and texts in one space (``get_image_features``
and ``get_text_features``), if their images and texts are prepared in ways that are known here. The
others are refused with the reason.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.artifacts import new_folder
from lookalike.documents import parse_json
from lookalike.encoders import backbones, pretrained
from lookalike.encoders.backbones import EXPORT_VERSION, TRANSFORMERS_PREFIX, is_outdated
from lookalike.encoders.base import MANIFEST, Preprocessing
from lookalike.encoders.export_progress import ExportProgress
from lookalike.encoders.image_processor import read_image_processor
from lookalike.encoders.image_text import ImageTextEncoder
from lookalike.encoders.persistence import load_encoder, read_description, write_encoder
from lookalike.encoders.sentencepiece_files import SENTENCEPIECE_FILE, sentencepiece_tokenizer
from lookalike.encoders.tokenization import MAX_TOKENS, text_tokenizer
from lookalike.encoders.torchvision_repair import import_beside_torchvision, offline_hint
from lookalike.errors import InputError, LookalikeError, MissingDependencyError, is_panic, require
from lookalike.files import read_regular
from lookalike.types import ImageArray

if TYPE_CHECKING:
    from torch import Tensor, nn

_SIGLIP = "siglip"
_OWN_LENGTH = ("clip", _SIGLIP)
"""Kinds of models whose texts have one length, which their own configuration says."""

_NO_LIMIT = 100_000
"""``model_max_length`` from which on a tokenizer says that there is none."""

_TOKENIZER_PACKAGES = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
"""Packages that some tokenizers of transformers need, and their modules."""

_INSTEAD = (
    "use a CLIP or SigLIP model (transformers:openai/clip-vit-base-patch32), or an ONNX model with "
    "its own tokenizer: hub:OWNER/NAME"
)


def open_image_text(name: str, sample: Sequence[ImageArray] = ()) -> ImageTextEncoder:
    """Open ``transformers:NAME``, exporting it first if it is not in the cache.

    Args:
        name: with the prefix; a folder or a model id of the hub.
        sample: ignored; every encoder is opened with one.

    Raises:
        MissingDependencyError: transformers or torch is not installed.
        InputError: transformers cannot load it as an image-text model, or its images or texts are
            prepared in a way that is not known here.
        ArtifactError: the export computes other embeddings than torch.
    """
    del sample
    folder = backbones.cache_path(re.sub(r"[^\w.\-]", "_", name)).with_suffix("")
    is_cached = (folder / MANIFEST).is_file()
    if is_cached:
        origin = read_description(folder).mapping("origin")
        is_cached = not is_outdated(name, origin, "transformers")
    if not is_cached:
        encoder = _export(name)
        shutil.rmtree(folder, ignore_errors=True)  # an older export
        with new_folder(folder) as partial:
            write_encoder(encoder, partial)
    loaded = load_encoder(folder)
    assert isinstance(loaded, ImageTextEncoder)
    return loaded


def _export(name: str) -> ImageTextEncoder:
    source, purpose = name.removeprefix(TRANSFORMERS_PREFIX), f"encoder {name!r}"
    require("torch", purpose, "transformers")
    progress = ExportProgress(name, 4)
    progress.begin("loading")
    try:
        transformers = import_beside_torchvision("transformers", purpose)
        import torch

        from lookalike.encoders.export import to_onnx
    except ModuleNotFoundError as error:
        package = error.name or "transformers"
        raise MissingDependencyError(package, purpose, "transformers") from error
    model = _load_model(transformers, source, name)
    processor, tokenizer = _load_processing(transformers, source, name, model.config)
    encodings = _encoded(tokenizer, ["a photo", "two photos of something else"], name)
    ids, mask = (torch.tensor(rows) for rows in encodings)
    images = torch.rand(
        *(2, 3, processor.height, processor.width), generator=torch.Generator().manual_seed(0)
    )
    # SigLIP was trained without a mask: what it is padded with belongs to its texts.
    texts = (ids,) if model.config.model_type == _SIGLIP else (ids, mask)
    towers = _towers(model)
    with torch.no_grad():
        expected = [
            _run(tower, values, name)
            for tower, values in zip(towers, ((images,), texts), strict=True)
        ]
    if expected[0].shape[1:] != expected[1].shape[1:]:
        raise _refusal(name, model.config.model_type, "its images and texts differ in length")
    progress.begin("image network")
    image_network = to_onnx(towers[0], images, purpose=purpose)
    progress.begin("text network")
    names = ("tokens", "mask")[: len(texts)]
    model_license = getattr(model.config, "license", None) or "see the model's page"
    encoder = ImageTextEncoder(
        name,
        image_network,
        processor,
        text=to_onnx(towers[1], *texts, names=names, purpose=purpose),
        tokenizer=tokenizer,
        origin={
            "source": source,
            "license": model_license,
            "torch": torch.__version__,
            "export": EXPORT_VERSION,
            **_logits(model),
        },
    )
    progress.begin("comparison with torch")
    actual = (encoder.run(images.numpy()), encoder.run_text(ids.numpy(), mask.numpy()))
    for of_torch, of_export in zip(expected, actual, strict=True):
        pretrained.check_export(name, of_torch.numpy(), of_export)
    progress.end()
    return encoder


def _refusal(name: str, kind: str, reason: str) -> InputError:
    return InputError(f"encoder {name!r}: a model of the type {kind!r}, {reason}; {_INSTEAD}")


def _reason(error: BaseException) -> str:
    return " ".join((str(error).strip() or type(error).__name__).split())[:300]


def _load_model(transformers: Any, source: str, name: str) -> Any:
    """Return the model in eval mode.

    Raises:
        InputError: transformers cannot load it, or it does not embed images and texts.
    """
    try:
        model = transformers.AutoModel.from_pretrained(source).eval()
    except Exception as error:  # transformers and the libraries that download raise many kinds
        raise InputError(
            f"encoder {name!r}: transformers cannot load an image-text model from it "
            f"({_reason(error)}); use the folder or hub id of a CLIP or SigLIP model"
            + offline_hint()
        ) from error
    kind = str(model.config.model_type)
    if kind == "siglip2":
        raise _refusal(
            name,
            kind,
            "which takes patches of images of any aspect ratio (naflex) instead of pixels; SigLIP "
            "2 is also published for one image size, as google/siglip2-base-patch16-224",
        )
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise _refusal(name, kind, "which does not embed images and texts in one space")
    return model


def _load_processing(
    transformers: Any, source: str, name: str, config: Any
) -> tuple[Preprocessing, bytes]:
    """Return what is done to images, and the tokenizer as a complete ``tokenizer.json``.

    Raises:
        InputError: one of them is missing, or not known here.
    """
    purpose = f"encoder {name!r}"
    module = import_beside_torchvision("transformers.image_processing_base", purpose)
    try:
        fields, _ = module.ImageProcessingMixin.get_image_processor_dict(source)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{purpose}: has no preprocessor_config.json, which says how its images are resized "
            f"and normalized ({_reason(error)})"
        ) from error
    processor = read_image_processor(fields, name=name)
    document, options = _load_tokenizer(transformers, source, name, config)
    kind, length = str(config.model_type), None
    if kind not in _OWN_LENGTH:
        longest = options.get("model_max_length")
        positions = getattr(config.text_config, "max_position_embeddings", MAX_TOKENS)
        if "roberta" in str(getattr(config.text_config, "model_type", "")) or kind == "altclip":
            positions -= (getattr(config.text_config, "pad_token_id", None) or 1) + 1
        has_limit = isinstance(longest, int) and 0 < longest < _NO_LIMIT
        limits = [int(longest)] if has_limit and longest is not None else []
        length = min(*limits, int(positions), MAX_TOKENS)
    place = f"{purpose}: its tokenizer"
    return processor, text_tokenizer(
        document, config.to_dict(), options, length=length, place=place
    )


def _load_tokenizer(
    transformers: Any, source: str, name: str, config: Any
) -> tuple[bytes, Mapping[str, Any]]:
    """Return a tokenizer as the bytes of a ``tokenizer.json``, and fields about it.

    Raises:
        InputError: transformers cannot load it, or it is written in Python only.
    """
    if config.model_type == _SIGLIP and _file(transformers, source, "tokenizer.json") is None:
        pieces = _file(transformers, source, SENTENCEPIECE_FILE)
        if pieces is not None:
            path = _file(transformers, source, "tokenizer_config.json")
            fields = parse_json(read_regular(path), str(path), hint="copy it again") if path else {}
            document = sentencepiece_tokenizer(read_regular(pieces), place=str(pieces))
            return document, fields if isinstance(fields, Mapping) else {}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    except Exception as error:  # tokenizers raise many kinds, and panic
        raise _tokenizer_failure(name, error) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refusal(
            name,
            str(config.model_type),
            f"whose tokenizer {type(tokenizer).__name__} is written in Python and has no "
            "tokenizer.json",
        )
    return backend.to_str().encode(), {
        "pad_token": tokenizer.pad_token,
        "tokenizer_class": type(tokenizer).__name__,
        "model_max_length": tokenizer.model_max_length,
    }


def _tokenizer_failure(name: str, error: BaseException) -> LookalikeError:
    """Return the error for a tokenizer that cannot be loaded; it names packages that it lacks."""
    reason = _reason(error)
    missing = [
        package
        for package, module in _TOKENIZER_PACKAGES.items()
        if package in reason.lower() and not _installed(module)
    ]
    if missing:
        return InputError(
            f"encoder {name!r}: its tokenizer needs {' and '.join(missing)}: pip install "
            f"{' '.join(missing)}"
        )
    return InputError(f"encoder {name!r}: its tokenizer cannot be loaded ({reason}); {_INSTEAD}")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def _file(transformers: Any, source: str, path: str) -> Path | None:
    """Return a file of the model in its folder or in transformers' cache, None if it has none."""
    cached = transformers.utils.cached_file(
        source,
        path,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if cached is None else Path(cached)


def _encoded(
    tokenizer: bytes, texts: Sequence[str], name: str
) -> tuple[list[list[int]], list[list[int]]]:
    """Return token ids and attention mask of texts.

    Raises:
        InputError: the tokenizer is broken.
    """
    from tokenizers import Tokenizer

    try:
        encodings = Tokenizer.from_str(tokenizer.decode()).encode_batch(list(texts))
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise _tokenizer_failure(name, error) from error
    return [each.ids for each in encodings], [each.attention_mask for each in encodings]


def _towers(model: Any) -> tuple[nn.Module, nn.Module]:
    """Return image tower and text tower as modules that return unit-length embeddings."""
    from torch import nn
    from torch.nn.functional import normalize

    class ImageTower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            return normalize(_embeddings(self.model.get_image_features(pixel_values=images)))

    class TextTower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
            options = {} if mask is None else {"attention_mask": mask}
            return normalize(_embeddings(self.model.get_text_features(input_ids=ids, **options)))

    return ImageTower(), TextTower()


def _run(tower: nn.Module, values: Sequence[Tensor], name: str) -> Tensor:
    """Return the embeddings ``(n, dim)`` of a tower.

    Raises:
        InputError: it does not accept the values, or returns something else.
    """
    try:
        rows: Tensor = tower(*values)
    except Exception as error:  # models raise many kinds
        shape = "x".join(map(str, values[0].shape[1:]))
        raise InputError(
            f"encoder {name!r}: the model does not accept an input of {shape} ({_reason(error)}); "
            f"{_INSTEAD}"
        ) from error
    if rows.ndim != 2:
        shape = "x".join(map(str, rows.shape[1:]))
        raise InputError(
            f"encoder {name!r}: the model returns {shape} numbers instead of one embedding; "
            f"{_INSTEAD}"
        )
    return rows


def _embeddings(output: Any) -> Tensor:
    """Return the embeddings ``(n, dim)``, which newer versions of transformers wrap."""
    rows: Tensor = getattr(output, "pooler_output", output)
    return rows


def _logits(model: Any) -> dict[str, Any]:
    """Return scale and bias of the cosines that the model was trained with, if it has them."""
    scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
    if scale is None or scale.numel() != 1:
        return {}
    offset = 0.0 if bias is None else float(bias.detach().item())
    return {"logits": {"scale": float(scale.detach().exp().item()), "bias": offset}}
