"""adapt(): fit a projection of a pretrained encoder's embeddings to a collection, without labels.

Each image is turned into synthetic queries: street photos or drawings of its item
(:mod:`lookalike.training.synthesis`). The projection suppresses the directions in which the views
of one item differ and keeps those in which items differ. It needs neither labels nor photos by
users; backgrounds are composed of the collection itself unless others are given.
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.arguments import check_fields, checked
from lookalike.array_files import read_array
from lookalike.artifacts import (
    FORMAT,
    OLDEST_RUN,
    check_writable,
    manifest_bytes,
    write_atomically,
)
from lookalike.documents import Fields, read_json
from lookalike.encoders.base import Encoder
from lookalike.encoders.composite import ProjectedEncoder
from lookalike.encoders.persistence import write_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.encoders.whitening import LinearProjection, PrincipalComponents, fit_discriminant
from lookalike.errors import ArtifactError, InputError, SettingError, UnknownNameError, require
from lookalike.progress import ProgressOption, reporting
from lookalike.sources import Source
from lookalike.sources.inputs import SourceLike, as_source
from lookalike.sources.sampling import sample_images
from lookalike.training.synthesis import QUERY_DOMAINS, ViewGenerator
from lookalike.types import ImageArray, Progress, ProgressCallback
from lookalike.vectors import unit_rows

log = logging.getLogger(__name__)

BASE = "efficientnet-lite0/layers,fit=stretch"
"""The default encoder."""

DIM = 256
"""Default number of dimensions, at most."""

MAX_IMAGES = 3000
"""Maximum sample of a collection; it is held in memory."""

_SIDE = 256
_MIN_CONTRAST_VIEWS = 3
_CHUNK = 256
_MAX_BACKGROUNDS, _BACKGROUND_SIDE = 500, 480
_CACHE_FOLDER, _RUN = "views", "run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptOptions:
    """Options of :func:`adapt`.

    Args:
        query_domain: what queries look like, a name in :data:`QUERY_DOMAINS`.
        views_per_image: synthetic views per image; fewer if the time limit is reached.
        minutes: time limit; the current round of views is finished.
        dim: output dimensions; by default at most 256.
        contrast: refine the projection by contrastive learning with hard negatives; needs torch.
        seed: of the views.
        resume: continue an interrupted run.

    Raises:
        SettingError: an option is of another type.
    """

    query_domain: str = "street"
    views_per_image: int = 8
    minutes: float | None = None
    dim: int | None = None
    contrast: bool = False
    seed: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


DEFAULTS = AdaptOptions()


@checked
def adapt(
    images: SourceLike,
    *,
    encoder: str | Encoder = BASE,
    out: str | Path | None = None,
    backgrounds: SourceLike | None = None,
    options: AdaptOptions = DEFAULTS,
    progress: ProgressOption = True,
) -> ProjectedEncoder:
    """Adapt an encoder to a collection without labels; return it.

    The projection is the linear discriminant with each image and its views as a class: embeddings
    are whitened by the scatter within classes (the learned whitening of Mikolajczyk and Matas 2007,
    section 3), and the directions with the largest variance between classes are kept.

    Args:
        images: a folder or another argument of :func:`lookalike.open_source`, an opened source, or
            images: arrays ``(n, h, w)`` or ``(n, h, w, 3)`` uint8, lists of files, PIL images, ...
            A sample of at most 3,000 images is used.
        encoder: a name, the path of an encoder folder, or an encoder.
        out: the encoder folder to create; during the run it holds the views' embeddings. Without it
            nothing is written, and an interrupted run cannot be resumed.
        backgrounds: photos on which items are put in street photos, by default collages of the
            collection. For an honest evaluation they must not include the queries.
        options: see :class:`AdaptOptions`.
        progress: True, False, or a callback; see :mod:`lookalike.progress`.

    Raises:
        MissingDependencyError: a package that the encoder or ``contrast`` needs is not installed.
        UnknownNameError: no such encoder or query domain.
        SettingError: an option is out of range.
        InputError: more dimensions than images, or all images have the same embedding.
        SourceError: no readable images.
        ArtifactError: ``out`` exists, or has nothing to resume.
        KeyboardInterrupt: interrupted; ``out`` keeps the embeddings so far.
    """
    _check_options(options)
    if options.contrast:
        require("torch", "contrastive refinement", "train")
    with reporting(progress) as on_progress:
        return _adapt(images, encoder, out, backgrounds, options, on_progress)


def _adapt(
    source: SourceLike,
    encoder: str | Encoder,
    out: str | Path | None,
    backgrounds: SourceLike | None,
    options: AdaptOptions,
    on_progress: ProgressCallback,
) -> ProjectedEncoder:
    folder = None if out is None else Path(out)
    if folder is not None:
        _check_folder(folder, options)
        check_writable(folder)
    opened = as_source(source, on_progress)
    images = _load_sample(opened)
    base = open_encoder(encoder, images)
    dim = _dim(options, len(images), base, opened)
    background_images = _load_backgrounds(backgrounds, on_progress)
    start = time.perf_counter()
    run = {
        "query_domain": options.query_domain,
        "seed": options.seed,
        "images": len(images),
        "data": _digest(images),
        "encoder": base.fingerprint,
        "backgrounds": _digest(background_images),
    }
    cache = _EmbeddingCache(folder / _CACHE_FOLDER if folder else None, run)
    generator = ViewGenerator.of(images, options.query_domain, options.seed, background_images)
    embed = _Embedder(base, len(images), on_progress)
    originals = cache.get("originals", base.dim, lambda: embed(images, "encode images"))
    if np.ptp(originals, axis=0).max() == 0:
        cache.remove()
        raise InputError(
            f"{opened.spec}: all {len(images):,} images have the same embedding; there is nothing "
            "to learn"
        )
    first = cache.get(
        "views-000",
        base.dim,
        lambda: embed(generator.views(0), f"views 1/{options.views_per_image}"),
    )
    components = PrincipalComponents.fit(np.concatenate([originals, first]))
    rank = components.components.shape[1]
    if options.dim is not None and rank < dim:
        raise InputError(
            f"{opened.spec}: its embeddings span only {rank} dimensions; {{dim}} must be at most "
            "that; go on with {resume}",
            dim=dim,
            resume=None,
        )
    dim = min(dim, rank)
    views = [components.transform(first)]
    min_views = _MIN_CONTRAST_VIEWS if options.contrast else 1
    for number in range(1, options.views_per_image):
        expired = options.minutes is not None and time.perf_counter() - start > options.minutes * 60
        if expired and number >= min_views:
            break
        task = f"views {number + 1}/{options.views_per_image}"
        make = partial(_embed_views, components, embed, generator, number, task)
        views.append(cache.get(f"views-{number:03}", rank, make))
    projection = _fit_projection(
        components.transform(originals), np.stack(views, axis=1), dim, options, on_progress
    )
    origin = {
        "learned": "adapt",
        "contrast": options.contrast,
        **run,
        "source": opened.spec,
        "views_per_image": len(views),
        "seconds": time.perf_counter() - start,
    }
    name = f"{base.name},adapted={options.query_domain}"
    adapted = ProjectedEncoder(name, base, components.compose(projection), origin)
    if folder is not None:
        write_encoder(adapted, folder)
        cache.remove()
    return adapted


def _fit_projection(
    rows: NDArray[np.float32],
    views: NDArray[np.float32],
    dim: int,
    options: AdaptOptions,
    on_progress: ProgressCallback,
) -> LinearProjection:
    if not options.contrast:
        return fit_discriminant(rows, views, dim)
    from lookalike.training.contrastive_refinement import refine

    start = fit_discriminant(rows, views[:, :-1], dim)
    return refine(rows, views, start, seed=options.seed, on_progress=on_progress).projection


@dataclass(frozen=True, slots=True)
class _Embedder:
    """Encodes ``count`` images as they are generated, in chunks."""

    encoder: Encoder
    count: int
    on_progress: ProgressCallback

    def __call__(self, images: Iterable[ImageArray], task: str) -> NDArray[np.float32]:
        embeddings: list[NDArray[np.float32]] = []
        remaining = iter(images)
        self.on_progress(Progress(task, 0, self.count, "images"))
        for chunk in iter(lambda: list(islice(remaining, _CHUNK)), []):
            embeddings.append(unit_rows(self.encoder.encode_batch(chunk)))
            self.on_progress(Progress(task, sum(map(len, embeddings)), self.count, "images"))
        return np.concatenate(embeddings)


class _EmbeddingCache:
    """Embeddings of a run in a folder, for resuming; without a folder nothing is stored."""

    def __init__(self, folder: Path | None, run: Mapping[str, Any]) -> None:
        self._folder = folder
        self._images = int(run["images"])
        if folder is None:
            return
        manifest = folder / _RUN
        current = {"format": FORMAT, **run}
        saved = current
        if manifest.exists():
            hint = f"remove {folder} to start again"
            document = read_json(manifest, hint=hint, follow=False)
            saved = dict(Fields.of(document, str(manifest), hint=hint).values)
        version = saved.get("format", 0)
        if not isinstance(version, int) or not OLDEST_RUN <= version <= FORMAT:
            raise ArtifactError(
                f"{folder.parent}: has an interrupted run written by another version of lookalike, "
                "which cannot be resumed. Remove it, or choose another {out}",
                out=None,
            )
        keys = [key for key in run if saved.get(key) != run[key]]
        if keys:
            raise ArtifactError(
                f"{folder.parent}: has a run with other settings ({', '.join(keys)}); resume with "
                "the same, or choose another {out}",
                out=None,
            )
        write_atomically(manifest, manifest_bytes(run))

    def get(
        self, name: str, dim: int, make: Callable[[], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Return the stored array ``(images, dim)`` of this name, or make and store it.

        Raises:
            ArtifactError: the stored one is damaged.
        """
        if self._folder is None:
            return make()
        path = self._folder / f"{name}.npy"
        if path.is_file():
            try:
                array = read_array(path)
            except (OSError, ValueError) as error:
                raise ArtifactError(
                    f"{path}: damaged ({error}); remove it to compute it again"
                ) from error
            expected = (self._images, dim)
            if array.dtype != np.float32 or array.shape != expected or not np.isfinite(array).all():
                raise ArtifactError(
                    f"{path}: has an array of {array.dtype} and shape {array.shape}, expected "
                    f"finite float32 and {expected}; remove it to compute it again"
                )
            return array
        array = make()
        file = io.BytesIO()
        np.save(file, array)
        write_atomically(path, file.getvalue())
        return array

    def remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _embed_views(
    components: PrincipalComponents,
    embed: _Embedder,
    generator: ViewGenerator,
    number: int,
    task: str,
) -> NDArray[np.float32]:
    return components.transform(embed(generator.views(number), task))


def _check_options(options: AdaptOptions) -> None:
    if options.query_domain not in QUERY_DOMAINS:
        raise UnknownNameError("query domain", options.query_domain, QUERY_DOMAINS)
    if options.views_per_image < 1:
        raise SettingError(
            "{views_per_image} must be at least 1", views_per_image=options.views_per_image
        )
    if options.contrast and options.views_per_image < _MIN_CONTRAST_VIEWS:
        raise SettingError(
            f"{{views_per_image}} must be at least {_MIN_CONTRAST_VIEWS} with {{contrast}}, which "
            "holds one view out",
            views_per_image=options.views_per_image,
            contrast=True,
        )
    if options.minutes is not None and options.minutes <= 0:
        raise SettingError("{minutes} must be above 0", minutes=options.minutes)
    if options.dim is not None and options.dim < 1:
        raise SettingError("{dim} must be at least 1", dim=options.dim)


def _check_folder(folder: Path, options: AdaptOptions) -> None:
    interrupted = (folder / _CACHE_FOLDER / _RUN).is_file()
    if options.resume:
        if not interrupted:
            raise ArtifactError(
                f"{folder}: has nothing to resume; leave out {{resume}}", resume=None
            )
    elif interrupted:
        raise ArtifactError(
            f"{folder}: has an interrupted run; resume it with {{resume}}, choose another "
            "{out}, or remove it",
            resume=True,
            out=None,
        )
    elif folder.is_file() or any(path.is_file() for path in folder.rglob("*")):
        raise ArtifactError(f"{folder}: already exists; choose another {{out}}", out=None)


def _dim(options: AdaptOptions, count: int, base: Encoder, source: Source) -> int:
    """Return the dimensions of the projection; there must be fewer than images."""
    max_dim = min(base.dim, count - 1)
    if max_dim < 1:
        raise InputError(f"{source.spec}: adapting needs at least 2 images, it has {count}")
    if options.dim is not None and options.dim > max_dim:
        raise InputError(
            f"{{dim}} must be at most {max_dim} for {count:,} images and {base.dim:,} dimensions "
            f"of {base.name}",
            dim=options.dim,
        )
    return min(options.dim or DIM, max_dim)


def _load_sample(source: Source) -> list[ImageArray]:
    images = sample_images(source, MAX_IMAGES, _SIDE)
    skipped = len(source) - len(images)
    if len(source) <= MAX_IMAGES and skipped:
        log.warning(
            "skipped %d of %d images, which cannot be read (lookalike index names them)",
            skipped,
            len(source),
        )
    return images


def _load_backgrounds(
    backgrounds: SourceLike | None, on_progress: ProgressCallback
) -> list[ImageArray]:
    if backgrounds is None:
        return []
    opened = as_source(backgrounds, on_progress, argument="backgrounds")
    return sample_images(opened, _MAX_BACKGROUNDS, _BACKGROUND_SIDE)


def _digest(images: Sequence[ImageArray]) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(str(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()
