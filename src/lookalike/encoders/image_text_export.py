"""Export CLIP and SigLIP models of transformers to ONNX, once, into the cache."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lookalike.artifacts import new_folder
from lookalike.encoders import backbones, pretrained
from lookalike.encoders.base import Preprocessing
from lookalike.errors import InputError, MissingDependencyError
from lookalike.types import ImageArray

if TYPE_CHECKING:
    from torch import Tensor, nn

from lookalike.encoders.image_text import ImageTextEncoder

PREFIX = "transformers:"

_BILINEAR, _BICUBIC = 2, 3
_LONGEST = 512


def open_image_text(name: str, sample: Sequence[ImageArray] = ()) -> ImageTextEncoder:
    """Open ``transformers:NAME``, exporting it first if the cache does not have it.

    Args:
        name: with the prefix; a folder, or a name of the hub.
        sample: not looked at.

    Raises:
        MissingDependencyError: transformers or torch is not installed.
        InputError: not a model with an image and a text half, or it cannot be had.
        ArtifactError: an export that differs from torch.
    """
    from lookalike.encoders.base import MANIFEST
    from lookalike.encoders.persistence import load_encoder, write_encoder

    del sample
    source = name.removeprefix(PREFIX)
    folder = backbones.cached(re.sub(r"[^\w.\-]", "_", name)).with_suffix("")
    if not (folder / MANIFEST).is_file():
        encoder = _export(name, source)
        with new_folder(folder) as partial:
            write_encoder(encoder, partial)
    loaded = load_encoder(folder)
    assert isinstance(loaded, ImageTextEncoder)
    return loaded


def _export(name: str, source: str) -> ImageTextEncoder:
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
        facts, _ = mixin.get_image_processor_dict(source)
        length = min(int(model.config.text_config.max_position_embeddings), _LONGEST)
    except (ImportError, RuntimeError) as error:
        raise backbones.broken_package("transformers", name, error) from error
    except (OSError, ValueError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"encoder {name!r}: transformers finds no model of images and words there ({reason}); "
            "give the folder or the name of a CLIP or SigLIP model"
        ) from error
    masked = "attention_mask" in tokenizer.model_input_names
    words = tokenizer.backend_tokenizer
    words.enable_truncation(length)
    words.enable_padding(
        length=length, pad_id=tokenizer.pad_token_id or 0, pad_token=tokenizer.pad_token or ""
    )
    p = _preprocessing(facts)
    images = torch.rand(2, 3, p.height, p.width, generator=torch.Generator().manual_seed(0))
    tokens = words.encode_batch(["a photo", "two photos of something else"])
    ids = torch.tensor([each.ids for each in tokens])
    mask = torch.tensor([each.attention_mask for each in tokens])
    halves = _halves(model, masked=masked)
    model_license = getattr(model.config, "license", None) or "see the model's page"
    encoder = ImageTextEncoder(
        name,
        to_onnx(halves[0], images),
        p,
        text=to_onnx(halves[1], ids, mask, names=("tokens", "mask")),
        tokenizer=words.to_str().encode(),
        origin={"source": source, "license": model_license, "torch": torch.__version__},
    )
    with torch.no_grad():
        pairs = (
            (halves[0](images), encoder.run(images.numpy())),
            (halves[1](ids, mask), encoder._network(ids.numpy(), mask.numpy())),
        )
    for expected, found in pairs:
        pretrained.check_export(name, expected.numpy(), found)
    return encoder


def _halves(model: Any, *, masked: bool) -> tuple[nn.Module, nn.Module]:
    """Return the image half and the text half as modules with embeddings of unit length."""
    from torch import nn

    from lookalike.encoders.pooling import unit

    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            return unit(_rows(self.model.get_image_features(pixel_values=images)))

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            # SigLIP was trained without a mask; its network takes one only to have two inputs.
            options = {"attention_mask": mask} if masked else {}
            rows = _rows(self.model.get_text_features(input_ids=ids, **options))
            return unit(rows if masked else rows + 0 * mask[:, :1])

    return Images(), Words()


def _rows(found: Any) -> Tensor:
    """Return the embeddings, which newer versions of transformers wrap."""
    rows: Tensor = getattr(found, "pooler_output", found)
    return rows


def _preprocessing(facts: Mapping[str, Any]) -> Preprocessing:
    """Return what an image processor's configuration says, in our words."""
    size = facts["size"]
    crop = facts.get("crop_size") if facts.get("do_center_crop") else None
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
    normalized = facts.get("do_normalize", True)
    return Preprocessing(
        height,
        width,
        3,
        filter="bicubic" if facts.get("resample", _BILINEAR) == _BICUBIC else "bilinear",
        crop=share,
        mean=tuple(facts["image_mean"]) if normalized else (),
        std=tuple(facts["image_std"]) if normalized else (),
    )
