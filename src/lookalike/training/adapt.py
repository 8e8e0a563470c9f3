"""adapt(): a projection of a pretrained encoder's embeddings, learned from a collection alone.

Each image is made into street photographs or drawings of its item
(:mod:`lookalike.images.compositing`, :mod:`lookalike.images.stylization`), and the projection makes
little of the directions in which these views of one item differ, and much of those in which items
do. No labels are used, and no photographs of anybody's queries: grounds are put together from the
collection itself unless others are given.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import write_atomically
from lookalike.encoders.base import Encoder
from lookalike.encoders.composite import ProjectedEncoder
from lookalike.encoders.persistence import load_encoder, write_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.encoders.whitening import LinearProjection, PrincipalComponents, fit_discriminant
from lookalike.errors import (
    ArtifactError,
    InputError,
    MissingDependencyError,
    SettingError,
    UnknownNameError,
)
from lookalike.sources import Source, open_source
from lookalike.sources.sampling import sample_images
from lookalike.training.synthesis import QUERY_DOMAINS, ViewGenerator
from lookalike.types import ImageArray, Progress, ProgressCallback, ignore_progress
from lookalike.vectors import unit_rows

if TYPE_CHECKING:
    from lookalike.training.contrastive_refinement import Refined

log = logging.getLogger(__name__)

BASE = "efficientnet-lite0/layers,fit=stretch"
"""What is adapted unless another encoder is named."""

DIM = 256
IMAGES = 3000
"""So many images of a collection are enough; they are held in memory."""

_SIDE = 256
_CONTRASTED = 3
_CHUNK = 256
_GROUNDS, _GROUND_SIDE = 500, 480
_FOLDER, _RUN = "views", "run.json"


@dataclass(frozen=True, slots=True)
class AdaptOptions:
    """What a user may set.

    ``query_domain`` is a name in :data:`QUERY_DOMAINS`, ``views_per_image`` how many views of each image are made,
    fewer if ``minutes`` are over before. ``dim`` is that of the projection, at most 256 unless
    given. ``contrast`` refines it by contrast with hard negatives, which takes torch.
    """

    query_domain: str = "street"
    views_per_image: int = 8
    minutes: float | None = None
    dim: int | None = None
    contrast: bool = False
    seed: int = 0
    resume: bool = False


DEFAULTS = AdaptOptions()


def adapt(
    source: str | Path | Source,
    *,
    encoder: str | Encoder = BASE,
    out: str | Path | None = None,
    backgrounds: str | Path | Source | None = None,
    options: AdaptOptions = DEFAULTS,
    on_progress: ProgressCallback = ignore_progress,
) -> ProjectedEncoder:
    """Adapt an encoder to a collection without labels, and leave it in the folder ``out``.

    The projection is that of linear discriminant analysis with every image as a class of its
    views: embeddings are whitened by their scatter within items, as with the learned whitening of
    Mikolajczyk and Matas 2007, section 3, and of it the directions of most variance between items
    are kept.

    Args:
        source: what :func:`lookalike.open_source` takes, or an opened source; at most
            3,000 of its images are looked at.
        encoder: a name, the path of an encoder folder, or an opened encoder.
        out: the encoder folder to make. While views are made it holds only these.
        backgrounds: photographs to put items on in street views, none of them the queries that the
            result is to be judged by; collages of the collection unless given.
        see :class:`AdaptOptions`.
        on_progress: told of each stage.

    Raises:
        UnknownNameError: no such encoder or query domain.
        SettingError: an option outside its range.
        InputError: fewer images than dimensions, or images that are all alike.
        SourceError: no images, or none that can be read.
        ArtifactError: ``out`` holds something else, or nothing to resume.
        KeyboardInterrupt: interrupted; the passes that were made are kept in ``out``.
    """
    _check(options)
    if options.contrast:
        _refine()
    folder = None if out is None else Path(out)
    if folder is not None:
        _check_folder(folder, options)
    opened = open_source(source, on_progress) if isinstance(source, str | Path) else source
    images = sample_images(opened, IMAGES, _SIDE)
    unread = len(opened) - len(images)
    if len(opened) <= IMAGES and unread:
        log.warning(
            "left out of adapting: %d of %d images, which cannot be read (lookalike index names "
            "them)",
            unread,
            len(opened),
        )
    base = _opened(encoder, images) if isinstance(encoder, str) else encoder
    dim = _dim(options, len(images), base, opened)
    behind = _grounds(backgrounds, on_progress)
    start = time.perf_counter()
    run = {
        "query_domain": options.query_domain,
        "seed": options.seed,
        "images": len(images),
        "data": _digest(images),
        "encoder": base.fingerprint,
        "backgrounds": _digest(behind),
    }
    kept = _Kept(folder / _FOLDER if folder else None, run)
    made = ViewGenerator.of(images, options.query_domain, options.seed, behind)
    embed = _Embedding(base, len(images), on_progress)
    whole = kept.array("originals", lambda: embed(images, "encode images"))
    if np.ptp(whole, axis=0).max() == 0:
        kept.remove()
        raise InputError(
            f"{opened.spec}: all {len(images):,} images have one embedding; there is nothing to "
            "tell apart"
        )
    first = kept.array(
        "views-000", lambda: embed(made.views(0), f"views 1/{options.views_per_image}")
    )
    basis = PrincipalComponents.fit(np.concatenate([whole, first]))
    views_per_image = [basis.transform(first)]
    least = _CONTRASTED if options.contrast else 1
    for number in range(1, options.views_per_image):
        over = options.minutes is not None and time.perf_counter() - start > options.minutes * 60
        if over and number >= least:
            break
        task = f"views {number + 1}/{options.views_per_image}"
        views_per_image.append(
            kept.array(f"views-{number:03}", partial(_pass, basis, embed, made, number, task))
        )
    there = basis.components.shape[1]
    if options.dim is not None and there < dim:
        kept.remove()
        raise InputError(
            f"{opened.spec}: its images differ in only {there} dimensions; ask for at most as many "
            f"(--dim), not {dim}"
        )
    dim = min(dim, there)
    projection = _learned(
        basis.transform(whole), np.stack(views_per_image, axis=1), dim, options, on_progress
    )
    origin = {
        "learned": "adapt",
        "contrast": options.contrast,
        **run,
        "source": opened.spec,
        "views_per_image": len(views_per_image),
        "seconds": time.perf_counter() - start,
    }
    name = f"{base.name},adapted={options.query_domain}"
    adapted = ProjectedEncoder(name, base, basis.compose(projection), origin)
    if folder is not None:
        write_encoder(adapted, folder)
        kept.remove()
    return adapted


def _refine() -> Callable[..., Refined]:
    """Return what refines by contrast.

    Raises:
        MissingDependencyError: torch is not installed.
    """
    try:
        from lookalike.training.contrastive_refinement import refine
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "torch", "--contrast", "train") from error
    return refine


def _learned(
    rows: NDArray[np.float32],
    views: NDArray[np.float32],
    dim: int,
    options: AdaptOptions,
    on_progress: ProgressCallback,
) -> LinearProjection:
    if not options.contrast:
        return fit_discriminant(rows, views, dim)
    refine = _refine()
    start = fit_discriminant(rows, views[:, :-1], dim)
    return refine(rows, views, start, seed=options.seed, on_progress=on_progress).projection


@dataclass(frozen=True, slots=True)
class _Embedding:
    """Encodes images as they are made, a chunk at a time; ``count`` of them."""

    encoder: Encoder
    count: int
    on_progress: ProgressCallback

    def __call__(self, images: Iterable[ImageArray], task: str) -> NDArray[np.float32]:
        found: list[NDArray[np.float32]] = []
        waiting = iter(images)
        self.on_progress(Progress(task, 0, self.count, "images"))
        for chunk in iter(lambda: list(islice(waiting, _CHUNK)), []):
            found.append(unit_rows(self.encoder.encode(chunk)))
            self.on_progress(Progress(task, sum(map(len, found)), self.count, "images"))
        return np.concatenate(found)


class _Kept:
    """Arrays of a run kept in a folder, so that it can be resumed; without one, not kept."""

    def __init__(self, folder: Path | None, run: Mapping[str, Any]) -> None:
        self._folder = folder
        if folder is None:
            return
        described = folder / _RUN
        if described.is_file() and json.loads(described.read_bytes()) != run:
            raise ArtifactError(
                f"{folder.parent}: holds another run, of other images, query domain, backgrounds, seed or "
                "encoder; resume with those it was begun with, or choose another -o"
            )
        write_atomically(described, json.dumps(run).encode())

    def array(self, name: str, make: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return what is kept under a name, or make it and keep it."""
        if self._folder is None:
            return make()
        path = self._folder / f"{name}.npy"
        if path.is_file():
            return np.asarray(np.load(path, allow_pickle=False))
        found = make()
        file = io.BytesIO()
        np.save(file, found)
        write_atomically(path, file.getvalue())
        return found

    def remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _pass(
    basis: PrincipalComponents, embed: _Embedding, made: ViewGenerator, number: int, task: str
) -> NDArray[np.float32]:
    return basis.transform(embed(made.views(number), task))


def _opened(name: str, images: Sequence[ImageArray]) -> Encoder:
    return load_encoder(Path(name)) if Path(name).is_dir() else open_encoder(name, images)


def _check(options: AdaptOptions) -> None:
    if options.query_domain not in QUERY_DOMAINS:
        raise UnknownNameError("query domain", options.query_domain, QUERY_DOMAINS)
    if options.views_per_image < 1:
        raise SettingError(f"--views-per-image {options.views_per_image}: must be at least 1")
    if options.contrast and options.views_per_image < _CONTRASTED:
        raise SettingError(
            f"--views-per-image {options.views_per_image}: --contrast holds one back and needs "
            f"at least {_CONTRASTED}"
        )
    if options.minutes is not None and options.minutes <= 0:
        raise SettingError(f"--minutes {options.minutes:g}: must be above 0")
    if options.dim is not None and options.dim < 1:
        raise SettingError(f"--dim {options.dim}: must be at least 1")


def _check_folder(folder: Path, options: AdaptOptions) -> None:
    begun = (folder / _FOLDER / _RUN).is_file()
    if options.resume:
        if not begun:
            raise ArtifactError(f"{folder}: holds nothing to resume; leave out --resume")
    elif begun:
        raise ArtifactError(
            f"{folder}: holds an interrupted run; go on with --resume, choose another -o, or "
            "remove it"
        )
    elif folder.is_file() or any(path.is_file() for path in folder.rglob("*")):
        raise ArtifactError(f"{folder}: already exists; choose another -o")


def _dim(options: AdaptOptions, count: int, base: Encoder, source: Source) -> int:
    """Return the projection's dimensions, of which there must be fewer than images."""
    most = min(base.dim, count - 1)
    if most < 1:
        raise InputError(f"{source.spec}: adapting needs at least 2 images, there is {count}")
    if options.dim is not None and options.dim > most:
        raise InputError(
            f"--dim {options.dim}: {count:,} images of {base.dim:,} dimensions allow at most "
            f"{most}; leave it out, or add images"
        )
    return min(options.dim or DIM, most)


def _grounds(
    backgrounds: str | Path | Source | None, on_progress: ProgressCallback
) -> list[ImageArray]:
    if backgrounds is None:
        return []
    opened = (
        open_source(backgrounds, on_progress)
        if isinstance(backgrounds, str | Path)
        else backgrounds
    )
    return sample_images(opened, _GROUNDS, _GROUND_SIDE)


def _digest(images: Sequence[ImageArray]) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(str(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()
