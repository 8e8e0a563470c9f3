"""Export of CLIP and SigLIP models of transformers to ONNX, once, into the cache."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lookalike.artifacts import new_folder
from lookalike.encoders import backbones, pretrained
from lookalike.encoders.backbones import TRANSFORMERS_PREFIX
from lookalike.encoders.base import MANIFEST, Preprocessing
from lookalike.encoders.image_text import ImageTextEncoder
from lookalike.encoders.persistence import load_encoder, write_encoder
from lookalike.encoders.torchvision_repair import import_failure
from lookalike.errors import InputError, MissingDependencyError
from lookalike.types import ImageArray

if TYPE_CHECKING:
    from torch import Tensor, nn

_BILINEAR, _BICUBIC = 2, 3
"""Pillow's numbers of the filters."""

_MAX_TOKENS = 512


def open_image_text(name: str, sample: Sequence[ImageArray] = ()) -> ImageTextEncoder:
    """Open ``transformers:NAME``, exporting it first if it is not in the cache.

    Args:
        name: with the prefix; a folder or a model id of the hub.
        sample: ignored; every encoder is opened with one.

    Raises:
        MissingDependencyError: transformers or torch is not installed.
        InputError: transformers cannot load it as an image-text model.
        ArtifactError: the export computes other embeddings than torch.
    """
    del sample
    folder = backbones.cache_path(re.sub(r"[^\w.\-]", "_", name)).with_suffix("")
    if not (folder / MANIFEST).is_file():
        encoder = _export(name)
        with new_folder(folder) as partial:
            write_encoder(encoder, partial)
    loaded = load_encoder(folder)
    assert isinstance(loaded, ImageTextEncoder)
    return loaded


def _export(name: str) -> ImageTextEncoder:
    source = name.removeprefix(TRANSFORMERS_PREFIX)
    try:
        torch = importlib.import_module("torch")
        transformers = importlib.import_module("transformers")
        from lookalike.encoders.export import to_onnx
    except ModuleNotFoundError as error:
        package = error.name or "transformers"
        raise MissingDependencyError(package, f"encoder {name!r}", "transformers") from error
    try:
        model = transformers.AutoModel.from_pretrained(source).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        mixin = importlib.import_module("transformers.image_processing_base").ImageProcessingMixin
        processor_config, _ = mixin.get_image_processor_dict(source)
        length = min(int(model.config.text_config.max_position_embeddings), _MAX_TOKENS)
    except (ImportError, RuntimeError) as error:
        raise import_failure("transformers", name, error) from error
    except (OSError, ValueError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"encoder {name!r}: transformers cannot load an image-text model from it ({reason}); "
            "give the folder or hub id of a CLIP or SigLIP model"
        ) from error
    uses_mask = "attention_mask" in tokenizer.model_input_names
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(length)
    backend.enable_padding(
        length=length, pad_id=tokenizer.pad_token_id or 0, pad_token=tokenizer.pad_token or ""
    )
    p = _preprocessing(processor_config)
    images = torch.rand(2, 3, p.height, p.width, generator=torch.Generator().manual_seed(0))
    encodings = backend.encode_batch(["a photo", "two photos of something else"])
    ids = torch.tensor([encoding.ids for encoding in encodings])
    mask = torch.tensor([encoding.attention_mask for encoding in encodings])
    image_tower, text_tower = _towers(model, uses_mask=uses_mask)
    model_license = getattr(model.config, "license", None) or "see the model's page"
    encoder = ImageTextEncoder(
        name,
        to_onnx(image_tower, images),
        p,
        text=to_onnx(text_tower, ids, mask, names=("tokens", "mask")),
        tokenizer=backend.to_str().encode(),
        origin={"source": source, "license": model_license, "torch": torch.__version__},
    )
    with torch.no_grad():
        outputs = (
            (image_tower(images), encoder.run(images.numpy())),
            (text_tower(ids, mask), encoder.run_text(ids.numpy(), mask.numpy())),
        )
    for expected, actual in outputs:
        pretrained.check_export(name, expected.numpy(), actual)
    return encoder


def _towers(model: Any, *, uses_mask: bool) -> tuple[nn.Module, nn.Module]:
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

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            # SigLIP was trained without a mask; using it times 0 keeps both inputs in the graph.
            options = {"attention_mask": mask} if uses_mask else {}
            rows = _embeddings(self.model.get_text_features(input_ids=ids, **options))
            return normalize(rows if uses_mask else rows + 0 * mask[:, :1])

    return ImageTower(), TextTower()


def _embeddings(output: Any) -> Tensor:
    """Return the embeddings ``(n, dim)``, which newer versions of transformers wrap."""
    rows: Tensor = getattr(output, "pooler_output", output)
    return rows


def _preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    """Translate the configuration of a transformers image processor."""
    size = config["size"]
    crop = config.get("crop_size") if config.get("do_center_crop") else None
    shortest = size if isinstance(size, int) else size.get("shortest_edge")
    share = None
    if crop is not None and shortest is not None:
        side = crop if isinstance(crop, int) else crop["height"]
        height = width = int(side)
        share = min(1.0, side / shortest)
    elif shortest is not None:
        height = width = int(shortest)
    else:
        height, width = int(size["height"]), int(size["width"])
    normalized = config.get("do_normalize", True)
    return Preprocessing(
        height,
        width,
        3,
        filter="bicubic" if config.get("resample", _BILINEAR) == _BICUBIC else "bilinear",
        crop=share,
        mean=tuple(config["image_mean"]) if normalized else (),
        std=tuple(config["image_std"]) if normalized else (),
    )
