"""Copies: how often an edited image finds its original, and what SSCD adds to street photos.

    python benchmarks/copies.py [--encoder NAME ...] [--model FILE] [--images N]
    python benchmarks/copies.py --street-photos [--encoder NAME ...] [--model FILE]

The images are 11 photographs and the 307 photographed items of the data set stamps, or N of them;
each is edited in the ways below and searched among all originals. Prints Markdown tables of

- R@1: the share of edited images whose nearest row is their original;
- the share found at one false pair in a thousand: those more similar to their original than 999 of
  1,000 pairs of different originals are to each other.

``--street-photos`` prints mAP@7 and R@1 of street photos instead. ``--encoder`` may be repeated
[default: efficientnet-lite0, sscd and both joined]. ``--model`` measures an ONNX network that takes
``(n, 320, 320, 3)`` uint8 in the place of sscd, such as a conversion of its weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from lookalike.datasets import open_dataset
from lookalike.datasets.stamps import background_photos
from lookalike.encoders.base import Encoder
from lookalike.encoders.external import from_callable
from lookalike.encoders.registry import open_encoder
from lookalike.evaluation.metrics import bootstrap_interval
from lookalike.vectors import unit_rows

LITE0, SSCD = "efficientnet-lite0", "sscd"
STRETCHED = f"{LITE0},fit=stretch"
K = 7
SIDE = 320


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Compress an image."""
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def crop(image: Image.Image, share: float) -> Image.Image:
    """Cut a share of the width and height off each side."""
    across, down = round(image.width * share), round(image.height * share)
    return image.crop((across, down, image.width - across, image.height - down))


def caption(image: Image.Image) -> Image.Image:
    """Write words over the lower part of an image."""
    out = image.copy()
    font = ImageFont.load_default(image.width / 8)
    place = (image.width * 0.05, image.height * 0.75)
    draw = ImageDraw.Draw(out)
    draw.text(place, "SHARE THIS!", "white", font=font, stroke_width=3, stroke_fill="black")
    return out


def screenshot(image: Image.Image) -> Image.Image:
    """Show an image on a white page, at 60 % of its width, between lines of text."""
    width, height = image.size
    out = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(height / 20)
    for top in (0.02, 0.1, 0.82, 0.9):
        draw.text((width * 0.05, height * top), "a page with some words", "black", font=font)
    small = image.resize((round(width * 0.6), round(height * 0.6)))
    out.paste(small, (round(width * 0.2), round(height * 0.2)))
    return out


def edits() -> Mapping[str, Callable[[Image.Image], Image.Image]]:
    """Return the edits by name."""
    return {
        "half size": lambda image: image.resize((image.width // 2, image.height // 2)),
        "JPEG of quality 30": lambda image: jpeg(image, 30),
        "JPEG of quality 10": lambda image: jpeg(image, 10),
        "brighter by half": lambda image: ImageEnhance.Brightness(image).enhance(1.5),
        "gray": lambda image: ImageOps.grayscale(image).convert("RGB"),
        "8 % cut off each side": lambda image: crop(image, 0.08),
        "25 % cut off each side": lambda image: crop(image, 0.25),
        "words over it": caption,
        "on a page, at 60 %": screenshot,
        "mirrored": ImageOps.mirror,
        "turned by 90 degrees": lambda image: image.rotate(90, expand=True),
    }


def uint8_network(path: Path) -> Encoder:
    """Return an encoder of an ONNX network that takes uint8 pixels."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    dim = session.get_outputs()[0].shape[-1]

    def run(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {name: np.asarray(pixels)})[0])

    return from_callable(run, dim=dim, name=SSCD, size=SIDE, normalized=True, batch_size=8)


class Parts:
    """Encoders that are joined in several ways; each image is encoded once by each."""

    def __init__(self, names: list[str], model: Path | None) -> None:
        self.names = names
        self.encoders: dict[str, Encoder] = {}
        for part in dict.fromkeys(part for name in names for part in name.split("+")):
            own = part == SSCD and model is not None
            self.encoders[part] = uint8_network(model) if own else open_encoder(part)

    def encode(self, images: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Return ``(n, dim)`` of unit length by name."""
        rows = {name: unit_rows(each.encode_batch(images)) for name, each in self.encoders.items()}
        return {
            name: unit_rows(np.concatenate([rows[part] for part in name.split("+")], axis=1))
            for name in self.names
        }


def measure_copies(parts: Parts, count: int) -> None:
    """Print the table of edited images."""
    shop = open_dataset("stamps").load("shop").images
    images = [*background_photos(), *shop[:: max(1, len(shop) // count)][:count]]
    originals = [Image.fromarray(image).convert("RGB") for image in images]
    rows = parts.encode([np.asarray(image) for image in originals])
    others = ~np.eye(len(originals), dtype=bool)
    limits = {name: np.quantile((each @ each.T)[others], 0.999) for name, each in rows.items()}
    print(f"\n{len(originals)} images; R@1, and the share found at one false pair in a thousand\n")
    print("| | " + " | ".join(rows) + " |\n|---|" + "--:|" * len(rows))
    for edit, change in edits().items():
        changed = parts.encode([np.asarray(change(image)) for image in originals])
        cells = []
        for name in rows:
            similarities = changed[name] @ rows[name].T
            first = similarities.argmax(axis=1) == np.arange(len(originals))
            found = np.diag(similarities) > limits[name]
            cells.append(f"{first.mean():.3f}, {found.mean():.3f}")
        print(f"| {edit} | " + " | ".join(cells) + " |", flush=True)
    print(
        "| similarity of one in a thousand pairs | "
        + " | ".join(f"{each:.3f}" for each in limits.values())
        + " |"
    )


def measure_street(parts: Parts) -> None:
    """Print mAP@7 and R@1 of street photos among the photographed items.

    Each query has one relevant row, so that its average precision is 1 / rank.
    """
    shop, street = (open_dataset("stamps").load(split) for split in ("shop", "street"))
    gallery, queries = parts.encode(list(shop.images)), parts.encode(list(street.images))
    items = list(shop.columns["item"])
    right = np.array([items.index(item) for item in street.columns["item"]])
    print("\n| | dimensions | mAP@7 | R@1 |\n|---|--:|--:|--:|")
    for name, rows in gallery.items():
        similarities = queries[name] @ rows.T
        own = similarities[np.arange(len(right)), right]
        ranks = 1 + (similarities > own[:, None]).sum(axis=1)
        averages = np.where(ranks <= K, 1 / ranks, 0.0)
        interval = bootstrap_interval(averages)
        print(
            f"| {name} | {rows.shape[1]:,} | {averages.mean():.3f} [{interval.low:.3f}, "
            f"{interval.high:.3f}] | {(ranks == 1).mean():.3f} |"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", action="append", metavar="NAME")
    parser.add_argument("--model", type=Path, metavar="FILE")
    parser.add_argument("--images", type=int, default=307, metavar="N")
    parser.add_argument("--street-photos", action="store_true")
    arguments = parser.parse_args()
    names = arguments.encoder or [LITE0, SSCD, f"{LITE0}+{SSCD}"]
    if arguments.street_photos:
        names = arguments.encoder or [STRETCHED, SSCD, f"{STRETCHED}+{SSCD}"]
        measure_street(Parts(names, arguments.model))
    else:
        measure_copies(Parts(names, arguments.model), arguments.images)


if __name__ == "__main__":
    main()
