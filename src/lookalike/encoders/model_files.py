"""Files of published ONNX models: in a folder, or on the hub, in the same layout.

The layout is that of transformers.js and of onnx-community: networks in ``onnx/`` (or at the top),
called ``model``, or ``vision_model`` and ``text_model``, with an ending for each precision
(:data:`lookalike.encoders.options.DTYPES`), and beside them the files that describe them. Weights
of large models lie in ``NAME.onnx_data``.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.documents import Fields, parse_json
from lookalike.encoders.onnx_files import external_files, with_external_data
from lookalike.encoders.options import DTYPES, ModelOptions
from lookalike.errors import InputError
from lookalike.files import read_regular
from lookalike.progress import notice

if TYPE_CHECKING:
    from lookalike.hub import HubModel

CONFIG = "config.json"
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
DESCRIPTIONS = (CONFIG, PREPROCESSOR, PROCESSOR, TOKENIZER, TOKENIZER_CONFIG)
"""Names of the files that describe networks."""

FOLDERS = ("onnx/", "")
_TELLING = (
    *("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin"),
    *("open_clip_model.safetensors", "tf_model.h5", "flax_model.msgpack", CONFIG, PREPROCESSOR),
    *("open_clip_config.json", TOKENIZER),
)
"""Files that tell what a model of the hub is that has no networks in ONNX."""

_MAX_LISTED = 12


class ModelFiles(ABC):
    """The files of a model, by their paths with forward slashes.

    Args:
        label: of the model, for messages.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.hashes: dict[str, str] = {}
        """SHA-256 of the files that were read, by path."""

    @property
    def hint(self) -> str:
        """What ends a message about a file that is not there."""
        return ""

    @abstractmethod
    def has(self, path: str) -> bool:
        """Return whether there is such a file."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Return the bytes of a file, 0 if there is no such file."""

    @abstractmethod
    def locate(self, paths: Sequence[str]) -> Mapping[str, Path]:
        """Return where files are on this machine; those of the hub are downloaded."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the paths of files, at least those that tell what the model is."""

    def read(self, path: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            InputError: it cannot be read.
        """
        place = self.locate([path])[path]
        try:
            data = read_regular(place)
        except OSError as error:
            raise InputError(
                f"{self.label}: {path} cannot be read ({error.strerror or error})"
            ) from error
        self.hashes[path] = hashlib.sha256(data).hexdigest()
        return data

    def read_json(self, path: str) -> dict[str, Any]:
        """Return the fields of a JSON file, none if there is no such file.

        Raises:
            InputError: it is no JSON object.
        """
        if not self.has(path):
            return {}
        place = f"{self.label}: {path}"
        hint = "copy or download the model again"
        document = parse_json(self.read(path), place, hint=hint, error=InputError)
        return dict(Fields.of(document, place, hint=hint, error=InputError).values)

    def read_model(self, path: str) -> bytes:
        """Return a network with all of its weights.

        Raises:
            InputError: it cannot be read.
            ArtifactError: it is no ONNX model, or its weights are missing.
        """
        model = self.read(path)
        folder = path.rpartition("/")[0]
        weights = {each: f"{folder}/{each}".lstrip("/") for each in self._weights(model, path)}
        if not weights:
            return model
        missing = [each for each in weights.values() if not self.has(each)]
        if missing:
            raise InputError(
                f"{self.label}: {path} has its weights in {', '.join(missing)}, which is not there"
                f"{self.hint}"
            )
        places = self.locate(list(weights.values()))
        for each in weights.values():
            with places[each].open("rb") as file:
                self.hashes[each] = hashlib.file_digest(file, "sha256").hexdigest()
        beside = {name: places[each] for name, each in weights.items()}
        return with_external_data(model, beside, name=f"{self.label}: {path}")

    def _weights(self, model: bytes, path: str) -> list[str]:
        return external_files(model, name=f"{self.label}: {path}")

    def origin(self) -> dict[str, Any]:
        """Return where the model is from."""
        return {"source": self.label, "license": "see the model's page"}


class FolderFiles(ModelFiles):
    """Files in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self._folder = folder

    def has(self, path: str) -> bool:
        """Return whether there is such a file."""
        return (self._folder / path).is_file()

    def size(self, path: str) -> int:
        """Return the bytes of a file, 0 if there is no such file."""
        return self.locate([path])[path].stat().st_size if self.has(path) else 0

    def locate(self, paths: Sequence[str]) -> Mapping[str, Path]:
        """Return where files are."""
        return {path: self._folder / path for path in paths}

    def names(self) -> list[str]:
        """Return the paths of files in the folder and in ``onnx/``."""
        places = [*self._folder.iterdir(), *(self._folder / "onnx").glob("*")]
        return sorted(str(each.relative_to(self._folder)) for each in places if each.is_file())

    def origin(self) -> dict[str, Any]:
        """Return the absolute path."""
        return {"source": str(self._folder.absolute()), "license": "your own"}


class HubFiles(ModelFiles):
    """Files of a model on the hub."""

    def __init__(self, model: HubModel) -> None:
        super().__init__(f"hub:{model.repo}")
        self._model = model

    @property
    def hint(self) -> str:
        """Offline, that the hub was not asked."""
        return self._model.hint

    def has(self, path: str) -> bool:
        """Return whether there is such a file."""
        return self._model.find(path) is not None

    def size(self, path: str) -> int:
        """Return the bytes of a file, 0 if there is no such file."""
        file = self._model.find(path)
        return 0 if file is None else file.size

    def locate(self, paths: Sequence[str]) -> Mapping[str, Path]:
        """Return where files are on this machine, once they are downloaded."""
        return self._model.fetch(paths)

    def names(self) -> list[str]:
        """Return those of the usual files that it has."""
        return [path for path in _TELLING if self.has(path)]

    def origin(self) -> dict[str, Any]:
        """Return name, commit and license."""
        return {
            "source": self.label,
            "commit": self._model.commit,
            "license": self._model.license or "see the model's page",
        }


class _LocalFiles(FolderFiles):
    """Files of a model on the hub that are on this machine."""

    def __init__(self, places: Mapping[str, Path]) -> None:
        super().__init__(Path())
        self._places = places

    def has(self, path: str) -> bool:
        """Return whether there is such a file."""
        return path in self._places

    def locate(self, paths: Sequence[str]) -> Mapping[str, Path]:
        """Return where files are."""
        return {path: self._places[path] for path in paths}


def local_networks(repo: str, dtype: str, *, with_text: bool) -> list[Path]:
    """Return the networks of a model of the hub if all of them are on this machine, else nothing.

    Nothing is requested.

    Args:
        repo: OWNER/NAME.
        dtype: of :data:`lookalike.encoders.options.DTYPES`.
        with_text: whether the model has a network of texts, and a tokenizer.
    """
    from lookalike.hub.local import local_files

    files = _LocalFiles(local_files(repo))
    layout = _layout(files, dtype)
    if layout is None or not files.has(PREPROCESSOR):
        return []
    has_both = layout.text is not None or not Path(layout.image).name.startswith("vision_model")
    if with_text and not (has_both and files.has(TOKENIZER)):
        return []
    paths = [*layout.networks, *([TOKENIZER] if with_text else [])]
    return list(files.locate(paths).values())


@dataclass(frozen=True, slots=True)
class Layout:
    """The networks of a model: one of images with or without one of texts, or one of both."""

    dtype: str
    image: str
    text: str | None = None

    @property
    def networks(self) -> list[str]:
        """Paths of the networks."""
        return [self.image, *([self.text] if self.text else [])]


def find_layout(files: ModelFiles, options: ModelOptions, *, name: str) -> Layout:
    """Return the networks of a model, in one precision.

    Raises:
        InputError: it has none that is known, or none in that precision; the message says which
            there are and how the model may be opened otherwise.
    """
    for dtype in DTYPES if options.dtype is None else [options.dtype]:
        layout = _layout(files, dtype)
        if layout is not None:
            if files.hint:
                notice(f"{files.label}: dtype={dtype}{files.hint}")
            return layout
    others = [dtype for dtype in DTYPES if dtype != options.dtype and _layout(files, dtype)]
    if options.dtype is not None and others:
        raise InputError(
            f"encoder {name!r}: has no networks with dtype={options.dtype}; it has dtype="
            f"{', '.join(others)}{files.hint}"
        )
    raise _unknown_layout(files, name)


def layout_of_file(files: ModelFiles, path: str) -> Layout:
    """Return a network, with the one of texts beside it if it is one of images."""
    folder, _, file_name = path.rpartition("/")
    stem = file_name.removesuffix(".onnx")
    dtype = next((d for d, end in DTYPES.items() if end and stem.endswith(end)), "fp32")
    text = None
    if stem.startswith("vision_model"):
        other = stem.replace("vision_model", "text_model", 1)
        text = f"{folder}/{other}.onnx".lstrip("/")
    return Layout(dtype, path, text if text and files.has(text) else None)


def _layout(files: ModelFiles, dtype: str) -> Layout | None:
    ending = DTYPES[dtype]
    for folder in FOLDERS:
        vision, text = (f"{folder}{part}_model{ending}.onnx" for part in ("vision", "text"))
        if files.has(vision):
            return Layout(dtype, vision, text if files.has(text) else None)
        if files.has(whole := f"{folder}model{ending}.onnx"):
            return Layout(dtype, whole)
    return None


def _unknown_layout(files: ModelFiles, name: str) -> InputError:
    names = files.names()
    listed = ", ".join(names[:_MAX_LISTED]) + (", …" if len(names) > _MAX_LISTED else "")
    return InputError(
        f"encoder {name!r}: has no networks in ONNX (onnx/model.onnx, or onnx/vision_model.onnx "
        f"and onnx/text_model.onnx); it has {listed or 'none of the usual files'}"
        f"{_other_way(files, names)}{files.hint}"
    )


def _other_way(files: ModelFiles, names: Sequence[str]) -> str:
    """Return how a model without networks of the layout may be opened, if it may be."""
    if network := next((each for each in names if each.endswith(".onnx")), ""):
        return f". To open one of its networks: onnx:{files.label}/{network}"
    is_open_clip = any(each.startswith("open_clip") for each in names)
    if not is_open_clip and not any(each in names for each in _TELLING):
        return ""
    repo = files.label.removeprefix("hub:")
    is_timm = is_open_clip or "architecture" in files.read_json(CONFIG)
    return f". To export it with torch: {'hf-hub' if is_timm else 'transformers'}:{repo}"
