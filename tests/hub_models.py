"""Small random models in the layouts of the hub, with what transformers and torch compute of them.

``build("clip", folder)`` writes a model as it would lie on the hub: networks exported to ONNX with
the inputs and outputs that published exports have, and the files that describe them. It returns a
:class:`Reference`, which embeds images and texts by transformers' own preprocessing (with Pillow)
and the model in torch. Weights are random, and larger than usual, so that embeddings of two images
differ.
"""

from __future__ import annotations

import io
import json
import string
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from lookalike.encoders.torchvision_repair import import_beside_torchvision

SIDE, PATCH = 32, 8
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
VISION = {**SMALL, "image_size": SIDE, "patch_size": PATCH}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}

Pixels = NDArray[np.uint8]
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """What a model computes in torch: ``(n, dim)`` of unit length for images, and for texts."""

    images: Callable[[Sequence[Pixels]], Rows]
    texts: Callable[[Sequence[str]], Rows] | None = None


def transformers() -> Any:
    return import_beside_torchvision("transformers", "these tests")


def build(kind: str, folder: Path) -> Reference:
    """Write a model of a kind into a folder, and return what it computes."""
    torch.manual_seed(0)
    return KINDS[kind](folder)


# ---------------------------------------------------------------- writing


def enlarged(model: Any) -> Any:
    """Return a model in eval mode with weights of a size that makes its embeddings differ."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "logit" not in name:
                parameter.normal_(0, 1.5 / max(1, parameter[0].numel()) ** 0.5)
    return model.eval()


class Returning(nn.Module):
    """A model that returns some fields of its output, in an order."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        output = self.model(**dict(zip(self.inputs, values, strict=True)))
        return tuple(getattr(output, name) for name in self.outputs)


def export(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    names: Sequence[str] = (),
    fixed: bool = False,
) -> bytes:
    """Return a model as ONNX, with a free batch and, as published ones have it, a free size."""
    axes: dict[str, dict[int, str]] = {}
    for name, value in inputs.items():
        axes[name] = {0: f"{name}_batch"}
        if not fixed:
            axes[name] |= {i: f"{name}_{i}" for i in range(1, value.ndim) if value.shape[i] != 3}
    for name in names or outputs:
        axes[name] = {0: "batch"}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Returning(model, list(inputs), outputs).eval(),
            tuple(inputs.values()),
            file,  # type: ignore[arg-type]
            input_names=list(inputs),
            output_names=list(names or outputs),
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
    return file.getvalue()


def write(folder: Path, networks: Mapping[str, bytes], **documents: Any) -> None:
    """Write networks by name into ``onnx/``, and JSON documents by name without the suffix."""
    (folder / "onnx").mkdir(parents=True)
    for name, data in networks.items():
        (folder / "onnx" / f"{name}.onnx").write_bytes(data)
    for name, content in documents.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


def pixels(side: int = SIDE) -> dict[str, Tensor]:
    return {"pixel_values": torch.rand(2, 3, side, side)}


def tokens(length: int, *, mask: bool = False) -> dict[str, Tensor]:
    ids = {"input_ids": torch.randint(0, 50, (3, length))}
    return ids | ({"attention_mask": torch.ones(3, length, dtype=torch.int64)} if mask else {})


def unit(rows: Tensor) -> Rows:
    return nn.functional.normalize(rows).numpy()


def processed(processor: Any, images: Sequence[Pixels]) -> Tensor:
    pictures = [Image.fromarray(image).convert("RGB") for image in images]
    values: Tensor = processor(images=pictures, return_tensors="pt")["pixel_values"]
    return values


def pil_processor(module: str, config: Mapping[str, Any]) -> Any:
    """Return an image processor of transformers that uses Pillow, as a file configures it."""
    name = f"transformers.models.{module}.image_processing_pil_{module}"
    processors = import_beside_torchvision(name, "these tests")
    [kind] = [getattr(processors, each) for each in processors.__all__ if each.endswith("Pil")]
    return kind.from_dict({**config})


def image_reference(
    model: nn.Module, processor: Any, embed: Callable[[nn.Module, Tensor], Tensor]
) -> Callable[[Sequence[Pixels]], Rows]:
    def run(images: Sequence[Pixels]) -> Rows:
        with torch.no_grad():
            return unit(embed(model, processed(processor, images)))

    return run


# ---------------------------------------------------------------- tokenizers


def clip_tokenizer() -> Any:
    """Return a tokenizer of CLIP over single bytes."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(f"{each}</w>" for each in letters), "<|startoftext|>", "<|endoftext|>"]
    return transformers().CLIPTokenizer({name: i for i, name in enumerate(names)}, [])


def siglip_tokenizer() -> Any:
    """Return a tokenizer of SigLIP as it is without its own class, for canonical texts only."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(each, -3.0 - i / 100) for i, each in enumerate(string.ascii_letters + "!,.'")]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return transformers().PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="</s>", eos_token="</s>", unk_token="<unk>"
    )


def canonical(text: str) -> str:
    """Return a text as SigLIP's tokenizer has it: lower case, without punctuation."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(bare.split())


def gemma_tokenizer(kind: str) -> Any:
    """Return a tokenizer of SigLIP 2, by the name of its class."""
    from tokenizers import processors

    names = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<mask>",
        *string.ascii_letters,
        "▁",
        "!",
        ",",
        ".",
    ]
    tokenizer = getattr(transformers(), kind)({name: i for i, name in enumerate(names)}, [])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return tokenizer


def tokenized(tokenizer: Any, texts: Sequence[str], length: int) -> dict[str, Tensor]:
    encoded = tokenizer(
        list(texts),
        padding="max_length",
        padding_side="right",
        max_length=length,
        truncation=True,
        return_tensors="pt",
    )
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


# ---------------------------------------------------------------- images and texts


CLIP_PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 40},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(CLIP_MEAN),
    "image_std": list(CLIP_STD),
    "do_convert_rgb": True,
}
OLD_CLIP_PROCESSOR = {
    "crop_size": SIDE,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": list(CLIP_MEAN),
    "image_std": list(CLIP_STD),
    "resample": 3,
    "size": 36,
}


def clip_model() -> Any:
    t = transformers()
    vocabulary = len(clip_tokenizer())
    special = {"eos_token_id": vocabulary - 1, "bos_token_id": vocabulary - 2}
    text = {**SMALL, **special, "vocab_size": vocabulary, "projection_dim": 16}
    vision = {**VISION, "projection_dim": 16}
    config = t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    return enlarged(t.CLIPModel(config))


def clip_references(model: Any, processor: Mapping[str, Any]) -> Reference:
    def texts(queries: Sequence[str]) -> Rows:
        with torch.no_grad():
            output = model.get_text_features(**tokenized(clip_tokenizer(), queries, 77))
        return unit(output.pooler_output)

    images = image_reference(
        model,
        pil_processor("clip", processor),
        lambda m, values: m.get_image_features(values).pooler_output,  # type: ignore[operator]
    )
    return Reference(images, texts)


class Tower(nn.Module):
    """One tower of a model of CLIP, as transformers' classes with a projection have it."""

    def __init__(self, model: Any, kind: str) -> None:
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, **values: Tensor) -> Any:
        tower = getattr(self.model, f"{self.kind}_model")
        project = getattr(
            self.model, "visual_projection" if "v" in self.kind else "text_projection"
        )
        output = tower(**values)
        name = "image_embeds" if "v" in self.kind else "text_embeds"
        return _Output(
            **{name: project(output.pooler_output)}, last_hidden_state=output.last_hidden_state
        )


class _Output:
    def __init__(self, **values: Tensor) -> None:
        vars(self).update(values)


def clip_networks(model: Any, *, fixed: bool = False) -> dict[str, bytes]:
    vision, text = Tower(model, "vision"), Tower(model, "text")
    return {
        "vision_model": export(
            vision, pixels(), ["last_hidden_state", "image_embeds"], fixed=fixed
        ),
        "text_model": export(text, tokens(77), ["last_hidden_state", "text_embeds"], fixed=fixed),
    }


LOGITS = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")


def combined_network(model: Any, length: int, *, mask: bool) -> bytes:
    return export(model, {**tokens(length, mask=mask), **pixels()}, LOGITS)


def clip(folder: Path) -> Reference:
    """CLIP as two networks."""
    model = clip_model()
    documents = _clip_documents(model)
    write(folder, clip_networks(model), preprocessor_config=CLIP_PROCESSOR, **documents)
    return clip_references(model, CLIP_PROCESSOR)


def _clip_documents(model: Any) -> dict[str, Any]:
    return {
        "config": model.config.to_dict(),
        "tokenizer": clip_tokenizer().backend_tokenizer.to_str(),
        "tokenizer_config": {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>"},
    }


def clip_combined(folder: Path) -> Reference:
    """CLIP as one network, with an image processor in the words of old files."""
    model = clip_model()
    networks = {"model": combined_network(model, 77, mask=True)}
    write(folder, networks, preprocessor_config=OLD_CLIP_PROCESSOR, **_clip_documents(model))
    return clip_references(model, OLD_CLIP_PROCESSOR)


def mobileclip(folder: Path) -> Reference:
    """As MobileCLIP: values in [0, 1], and texts of exactly 77 tokens."""
    model = clip_model()
    processor = {
        **{name: CLIP_PROCESSOR[name] for name in ("do_resize", "do_center_crop", "crop_size")},
        "image_processor_type": "CLIPFeatureExtractor",
        "do_normalize": False,
        "resample": 2,
        "size": {"shortest_edge": SIDE},
    }
    networks = clip_networks(model, fixed=True)
    write(folder, networks, preprocessor_config=processor, **_clip_documents(model))
    return clip_references(model, processor)


SIGLIP_PROCESSOR = {
    "image_processor_type": "SiglipImageProcessor",
    "do_resize": True,
    "size": {"height": SIDE, "width": SIDE},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    **HALF,
}


def siglip_model() -> Any:
    t = transformers()
    text = {**SMALL, "vocab_size": 64, "max_position_embeddings": 64, "projection_size": 32}
    return enlarged(t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=VISION)))


def siglip_references(
    model: Any, processor: Mapping[str, Any], encode: Callable[[Sequence[str]], Tensor]
) -> Reference:
    def texts(queries: Sequence[str]) -> Rows:
        with torch.no_grad():
            return unit(model.get_text_features(input_ids=encode(queries)).pooler_output)

    images = image_reference(
        model,
        pil_processor("siglip", processor),
        lambda m, values: m.get_image_features(values).pooler_output,  # type: ignore[operator]
    )
    return Reference(images, texts)


def siglip_networks(model: Any) -> dict[str, bytes]:
    names = ["last_hidden_state", "pooler_output"]
    return {
        "vision_model": export(model.vision_model, pixels(), names),
        "text_model": export(model.text_model, tokens(64), names),
    }


def _encode_canonical(queries: Sequence[str]) -> Tensor:
    return tokenized(siglip_tokenizer(), list(map(canonical, queries)), 64)["input_ids"]


def siglip(folder: Path) -> Reference:
    """SigLIP as two networks, with the hidden states first."""
    model = siglip_model()
    processor = {**SIGLIP_PROCESSOR, "size": SIDE}
    write(folder, siglip_networks(model), preprocessor_config=processor, **_siglip_documents(model))
    return siglip_references(model, SIGLIP_PROCESSOR, _encode_canonical)


def _siglip_documents(model: Any) -> dict[str, Any]:
    return {
        "config": {"model_type": "siglip", "text_config": {"vocab_size": 64}},
        "tokenizer": siglip_tokenizer().backend_tokenizer.to_str(),
        "tokenizer_config": {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>"},
    }


def siglip_combined(folder: Path) -> Reference:
    """SigLIP as one network; its logits have a scale and a bias."""
    model = siglip_model()
    with torch.no_grad():
        model.logit_scale.fill_(float(np.log(25)))
        model.logit_bias.fill_(-7)
    networks = {"model": combined_network(model, 64, mask=False)}
    write(folder, networks, preprocessor_config=SIGLIP_PROCESSOR, **_siglip_documents(model))
    return siglip_references(model, SIGLIP_PROCESSOR, _encode_canonical)


def siglip2(folder: Path) -> Reference:
    """SigLIP 2 of a fixed size, which says that it is SigLIP, with Gemma's tokenizer."""
    model = siglip_model()
    write(
        folder,
        siglip_networks(model),
        preprocessor_config={**SIGLIP_PROCESSOR, "resample": 2},
        config={"model_type": "siglip", "text_config": {"vocab_size": 64}},
        tokenizer=gemma_tokenizer("GemmaTokenizer").backend_tokenizer.to_str(),
        tokenizer_config={"tokenizer_class": "GemmaTokenizer", "pad_token": "<pad>"},
    )

    def encode(queries: Sequence[str]) -> Tensor:
        return tokenized(gemma_tokenizer("Siglip2Tokenizer"), queries, 64)["input_ids"]

    return siglip_references(model, {**SIGLIP_PROCESSOR, "resample": 2}, encode)


def jina(folder: Path) -> Reference:
    """As jina-clip: one network with its own names of outputs, and its own image processor."""
    model = clip_model()
    names = ("text_embeddings", "image_embeddings", "l2norm_text", "l2norm_image")
    network = export(
        _Jina(model),
        {**tokens(77), **pixels()},
        names,
        names=(*names[:2], "l2norm_text_embeddings", "l2norm_image_embeddings"),
    )
    processor = {
        "auto_map": {"AutoImageProcessor": "jinaai/x--processing_clip.JinaCLIPImageProcessor"},
        "fill_color": 0,
        "image_processor_type": "JinaCLIPImageProcessor",
        "interpolation": "bicubic",
        "mean": list(CLIP_MEAN),
        "processor_class": "JinaCLIPProcessor",
        "resize_mode": "shortest",
        "size": SIDE,
        "std": list(CLIP_STD),
    }
    documents = _clip_documents(model) | {
        "config": {"model_type": "jina_clip"},
        "tokenizer_config": {"pad_token": "<|endoftext|>", "model_max_length": 77},
    }
    write(folder, {"model": network}, preprocessor_config=processor, **documents)
    return Reference(_jina_images(model), clip_references(model, CLIP_PROCESSOR).texts)


class _Jina(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Any:
        text = self.model.get_text_features(input_ids).pooler_output
        image = self.model.get_image_features(pixel_values).pooler_output
        return _Output(
            text_embeddings=text,
            image_embeddings=image,
            l2norm_text=nn.functional.normalize(text),
            l2norm_image=nn.functional.normalize(image),
        )


def _jina_images(model: Any) -> Callable[[Sequence[Pixels]], Rows]:
    """Return what embeds images that are prepared by torchvision, as in open_clip."""
    transforms = import_beside_torchvision("torchvision.transforms", "these tests")
    prepare = [
        transforms.Resize(SIDE, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(SIDE),
        *_standardizing(transforms, CLIP_MEAN, CLIP_STD),
    ]

    def run(images: Sequence[Pixels]) -> Rows:
        values = _prepared(transforms.Compose(prepare), images)
        with torch.no_grad():
            return unit(model.get_image_features(values).pooler_output)

    return run


def _standardizing(transforms: Any, mean: Sequence[float], std: Sequence[float]) -> list[Any]:
    return [transforms.ToTensor(), transforms.Normalize(mean, std)]


def _prepared(prepare: Callable[[Image.Image], Tensor], images: Sequence[Pixels]) -> Tensor:
    return torch.stack([prepare(Image.fromarray(each).convert("RGB")) for each in images])


# ---------------------------------------------------------------- images alone


BIT_PROCESSOR = {**CLIP_PROCESSOR, **IMAGENET, "image_processor_type": "BitImageProcessor"}
VIT_PROCESSOR = {
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ViTFeatureExtractor",
    "resample": 2,
    "size": SIDE,
    **HALF,
}


def first_token(model: nn.Module, values: Tensor) -> Tensor:
    rows: Tensor = model(pixel_values=values).last_hidden_state[:, 0]
    return rows


def pooled(model: nn.Module, values: Tensor) -> Tensor:
    rows: Tensor = model(pixel_values=values).pooler_output
    return rows.flatten(1)


def write_images(
    folder: Path, model: Any, outputs: Sequence[str], processor: Mapping[str, Any], **config: Any
) -> None:
    network = export(model, pixels(), outputs)
    documents = {"config": {**model.config.to_dict(), **config}, "preprocessor_config": processor}
    write(folder, {"model": network}, **documents)


def dinov2(folder: Path) -> Reference:
    """DINOv2 as older exports have it, hidden states alone."""
    return _dinov2(folder, "Dinov2")


def dinov2_registers(folder: Path) -> Reference:
    """DINOv2 with registers."""
    return _dinov2(folder, "Dinov2WithRegisters")


def _dinov2(folder: Path, name: str) -> Reference:
    t = transformers()
    config = getattr(t, f"{name}Config")(**VISION, mlp_ratio=2)
    model = enlarged(getattr(t, f"{name}Model")(config))
    embeddings = model.embeddings
    # The exporter cannot resize the positions, which are of this size already.
    embeddings.interpolate_pos_encoding = lambda *_: embeddings.position_embeddings
    write_images(folder, model, ["last_hidden_state"], BIT_PROCESSOR)
    return Reference(image_reference(model, pil_processor("bit", BIT_PROCESSOR), first_token))


def dinov3(folder: Path) -> Reference:
    """DINOv3; images are resized as its authors do, to whole levels.

    The image processor of transformers resizes in floating point, which differs by half a level.
    """
    t = transformers()
    model = enlarged(t.DINOv3ViTModel(t.DINOv3ViTConfig(**VISION, num_register_tokens=4)))
    processor = {
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "size": {"height": SIDE, "width": SIDE},
        "resample": 2,
        "crop_size": None,
        "do_center_crop": None,
        "data_format": "channels_first",
        **IMAGENET,
    }
    write_images(folder, model, ["last_hidden_state", "pooler_output"], processor)
    transforms = import_beside_torchvision("torchvision.transforms", "these tests")
    prepare = [transforms.Resize((SIDE, SIDE)), *_standardizing(transforms, *IMAGENET.values())]

    def run(images: Sequence[Pixels]) -> Rows:
        with torch.no_grad():
            return unit(first_token(model, _prepared(transforms.Compose(prepare), images)))

    return Reference(run)


def vit(folder: Path) -> Reference:
    """ViT without a pooler, and an image processor in the words of old files."""
    t = transformers()
    model = enlarged(t.ViTModel(t.ViTConfig(**VISION), add_pooling_layer=False))
    write_images(folder, model, ["last_hidden_state"], VIT_PROCESSOR)
    return Reference(image_reference(model, pil_processor("vit", VIT_PROCESSOR), first_token))


def nomic(folder: Path) -> Reference:
    """As nomic-embed-vision: hidden states of a kind of model that transformers has not."""
    t = transformers()
    model = enlarged(t.ViTModel(t.ViTConfig(**VISION), add_pooling_layer=False))
    write_images(
        folder, model, ["last_hidden_state"], CLIP_PROCESSOR, model_type="nomic_bert", n_embd=32
    )
    return Reference(image_reference(model, pil_processor("clip", CLIP_PROCESSOR), first_token))


def swin(folder: Path) -> Reference:
    """Swin: the mean of all tokens."""
    t = transformers()
    config = t.SwinConfig(
        image_size=SIDE, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
    )
    model = enlarged(t.SwinModel(config))
    write_images(folder, model, ["last_hidden_state"], VIT_PROCESSOR)
    return Reference(image_reference(model, pil_processor("vit", VIT_PROCESSOR), pooled))


def convnext(folder: Path) -> Reference:
    """ConvNeXt: a pooler behind maps, and the crop of its own image processor."""
    t = transformers()
    model = enlarged(
        t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4))
    )
    processor = {
        "image_processor_type": "ConvNextImageProcessor",
        "crop_pct": 0.875,
        "size": {"shortest_edge": SIDE},
        "resample": 3,
        **IMAGENET,
    }
    write_images(folder, model, ["last_hidden_state", "pooler_output"], processor)
    return Reference(image_reference(model, pil_processor("convnext", processor), pooled))


def resnet(folder: Path) -> Reference:
    """ResNet: maps alone."""
    t = transformers()
    config = t.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    model = enlarged(t.ResNetModel(config))
    processor = {
        "feature_extractor_type": "ConvNextFeatureExtractor",
        "crop_pct": 0.875,
        "size": SIDE,
        "resample": 3,
        **IMAGENET,
    }
    write_images(folder, model, ["last_hidden_state"], processor)
    own = {**processor, "size": {"shortest_edge": SIDE}}
    return Reference(image_reference(model, pil_processor("convnext", own), pooled))


def efficientnet(folder: Path) -> Reference:
    """EfficientNet, whose image processor divides by the standard deviation twice."""
    t = transformers()
    model = enlarged(t.ViTModel(t.ViTConfig(**VISION)))
    processor = {
        "image_processor_type": "EfficientNetImageProcessor",
        "do_center_crop": False,
        "crop_size": {"height": 29, "width": 29},
        "include_top": True,
        "rescale_offset": True,
        "rescale_factor": 1 / 127.5,
        "resample": 0,
        "size": {"height": SIDE, "width": SIDE},
        **IMAGENET,
    }
    write_images(folder, model, ["last_hidden_state", "pooler_output"], processor)
    return Reference(image_reference(model, pil_processor("efficientnet", processor), pooled))


KINDS: Mapping[str, Callable[[Path], Reference]] = {
    "clip": clip,
    "clip-combined": clip_combined,
    "mobileclip": mobileclip,
    "siglip": siglip,
    "siglip-combined": siglip_combined,
    "siglip2": siglip2,
    "jina": jina,
    "dinov2": dinov2,
    "dinov2-registers": dinov2_registers,
    "dinov3": dinov3,
    "vit": vit,
    "nomic": nomic,
    "swin": swin,
    "convnext": convnext,
    "resnet": resnet,
    "efficientnet": efficientnet,
}
"""What writes a model of each kind."""
