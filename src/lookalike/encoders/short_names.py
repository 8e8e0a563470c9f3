"""Short names of networks on the public model hub, and the families of encoder names.

Each short name stands for a full one, such as ``hub:Xenova/clip-vit-base-patch32,dtype=q8``. All
are ONNX models whose license permits any use; sizes are those of the files that are fetched at the
first use. Research-only and gated models have no short name and open by their full one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PHOTOGRAPHS = "efficientnet-lite0"
"""The small network for photographs, which is the default for them."""

DTYPE = "q8"
"""The precision that short names fetch: 8-bit weights, about a quarter of the size of float32."""


@dataclass(frozen=True, slots=True)
class HubAlias:
    """A short name of a model on the hub.

    Args:
        name: short.
        summary: what it is good at, and its training.
        repo: ``OWNER/NAME`` on the hub.
        license: of the weights, an SPDX identifier.
        dim: length of an embedding.
        size: height and width of its input in pixels.
        download: bytes of its files in :data:`DTYPE`, tokenizer included.
        supports_text: whether it embeds texts, too.
    """

    name: str
    summary: str
    repo: str
    license: str
    dim: int
    size: int
    download: int
    supports_text: bool = False

    def full_name(self, options: Sequence[str] = ()) -> str:
        """Return the full name with options, such as ``dtype=fp16`` or ``mirror``."""
        has_dtype = any(option.strip().startswith("dtype=") for option in options)
        dtype = () if has_dtype else (f"dtype={DTYPE}",)
        return ",".join((f"hub:{self.repo}", *dtype, *options))


_ALIASES = (
    HubAlias(
        name="dinov2-small",
        summary="fine details",
        repo="Xenova/dinov2-small",
        license="Apache-2.0",
        dim=384,
        size=224,
        download=24_500_000,
    ),
    HubAlias(
        name="clip-b32",
        summary="text search",
        repo="Xenova/clip-vit-base-patch32",
        license="MIT",
        dim=512,
        size=224,
        download=155_900_000,
        supports_text=True,
    ),
    HubAlias(
        name="clip-b16",
        summary="text, finer",
        repo="Xenova/clip-vit-base-patch16",
        license="MIT",
        dim=512,
        size=224,
        download=154_200_000,
        supports_text=True,
    ),
    HubAlias(
        name="siglip-b16",
        summary="text, better",
        repo="Xenova/siglip-base-patch16-224",
        license="Apache-2.0",
        dim=768,
        size=224,
        download=212_900_000,
        supports_text=True,
    ),
    HubAlias(
        name="siglip2-b16",
        summary="multilingual",
        repo="onnx-community/siglip2-base-patch16-224-ONNX",
        license="Apache-2.0",
        dim=768,
        size=224,
        download=412_400_000,
        supports_text=True,
    ),
    HubAlias(
        name="nomic-vision",
        summary="general",
        repo="nomic-ai/nomic-embed-vision-v1.5",
        license="Apache-2.0",
        dim=768,
        size=224,
        download=96_700_000,
    ),
)

HUB_ALIASES: Mapping[str, HubAlias] = {alias.name: alias for alias in _ALIASES}
"""By short name."""


@dataclass(frozen=True, slots=True)
class Family:
    """Encoders that are named by what they open, not one by one.

    Args:
        form: of the names.
        summary: what they open.
        example: a name.
        module: that opening one imports, if it is optional.
        extra: of lookalike, which installs it.
    """

    form: str
    summary: str
    example: str
    module: str = ""
    extra: str = ""


FAMILIES = (
    Family("hub:OWNER/NAME", "hub models", "hub:Xenova/dinov2-base,dtype=fp16"),
    Family("onnx:PATH", "your network", "onnx:my.onnx"),
    Family("timm:NAME", "timm models", "timm:convnext_tiny.in12k_ft_in1k", "timm", "timm"),
    Family(
        "transformers:NAME",
        "CLIP, SigLIP",
        "transformers:openai/clip-vit-base-patch32",
        "transformers",
        "transformers",
    ),
    Family("sscd:FILE", "other SSCD", "sscd:sscd_disc_large.classy.pt"),
    Family("NAME.encoder", "saved encoder", "shoes.encoder"),
)

GUESSES: Mapping[str, tuple[str, ...]] = {
    "clip": ("clip-b32", "clip-b16"),
    "openclip": ("clip-b32",),
    "siglip": ("siglip-b16", "siglip2-b16"),
    "dino": ("dinov2-small",),
    "nomic": ("nomic-vision",),
    "copies": ("sscd",),
    "efficientnet": ("efficientnet-lite0",),
    "lite0": ("efficientnet-lite0",),
    "mobilenet": ("efficientnet-lite0", "timm:mobilenetv3_large_100"),
    "resnet": ("efficientnet-lite0", "timm:resnet50"),
    "convnext": ("timm:convnext_tiny.in12k_ft_in1k",),
    "vit": ("dinov2-small", "timm:vit_small_patch14_dinov2.lvd142m,size=224"),
    "vgg": ("efficientnet-lite0", "timm:vgg16"),
    "histogram": ("color",),
}
"""Names to suggest by the beginning of what somebody might type first."""


def guesses(name: str) -> tuple[str, ...]:
    """Return the encoders that somebody who typed ``name`` may mean; none if it is no guess."""
    plain = name.lower().replace("_", "-")
    for beginning in sorted(GUESSES, key=len, reverse=True):
        if plain.startswith(beginning):
            return GUESSES[beginning]
    return ()
