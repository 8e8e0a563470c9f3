"""What networks of timm return, checked: feature maps ``(n, c, h, w)``, or one embedding.

timm documents the axis order of a network's maps (``output_fmt``: those of swin and mambaout have
channels last) and their number of channels (``num_features``). Both are compared with what the
network returns for an image, and a network that returns something else is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lookalike.encoders.pooling import MULTI_LAYER_POOLING, NATIVE_POOLING
from lookalike.errors import InputError

_CHANNEL_AXIS = {"NCHW": 1, "NHWC": 3}


def features_of(network: Any, name: str, pooling: str, size: tuple[int, int]) -> nn.Module:
    """Return a network of timm as a module that returns what a pooling takes.

    Args:
        network: in eval mode, without its classifier; with its pooling, or for the pooling
            ``layers`` as a network of features.
        name: of the encoder, for messages.
        pooling: one of :data:`lookalike.encoders.pooling.POOLINGS`, or the native one.
        size: height and width of its images in pixels.

    Returns:
        A module that returns maps ``(n, c, h, w)``, for ``layers`` a list of them, the deepest
        last, and for the native pooling embeddings ``(n, dim)``.

    Raises:
        InputError: it does not accept the size, or returns something else.
    """
    minimum = (getattr(network, "pretrained_cfg", None) or {}).get("min_input_size")
    if minimum is not None and (size[0] < minimum[1] or size[1] < minimum[2]):
        raise InputError(
            f"encoder {name!r}: accepts images of at least {minimum[2]}x{minimum[1]} pixels, not "
            f"of {size[1]}x{size[0]}"
        )
    example = torch.zeros(1, 3, *size)
    if pooling == NATIVE_POOLING:
        return _native(network, name, example)
    if pooling == MULTI_LAYER_POOLING:
        output = list(_run(network, name, example))
        counts = [(int(count),) for count in network.feature_info.channels()]
        features = _nchw(network, output, counts)
    else:
        features = _deepest_maps(network, name, example)
    if features is None:
        raise InputError(
            f"encoder {name!r}: timm does not say which of its outputs are feature maps to pool; "
            f"remove /{pooling} from the name for the pooling that it was trained with"
        )
    return features


def _run(module: Any, name: str, images: Tensor) -> Any:
    """Return a network's output.

    Raises:
        InputError: it does not accept images of that size.
    """
    try:
        with torch.no_grad():
            return module(images)
    except Exception as error:  # networks raise many kinds
        reason = " ".join((str(error).strip() or type(error).__name__).split())[:300]
        height, width = images.shape[2:]
        raise InputError(
            f"encoder {name!r}: does not accept images of {width}x{height} pixels ({reason})"
        ) from error


def _counts(network: Any) -> tuple[int, ...]:
    """Return the numbers of features that timm documents, of the network and after its head."""
    counts = (getattr(network, "num_features", None), getattr(network, "head_hidden_size", None))
    return tuple(dict.fromkeys(int(count) for count in counts if count)) or (0,)


def _native(network: nn.Module, name: str, example: Tensor) -> nn.Module:
    """Return the network, if it returns one embedding for an image.

    Raises:
        InputError: it returns something else, or does not accept images of that size.
    """
    output = _run(network, name, example)
    is_tensor = isinstance(output, torch.Tensor)
    if is_tensor and output.ndim == 2 and output.shape[1] in _counts(network):
        return network
    shape = "x".join(map(str, output.shape[1:])) if is_tensor else type(output).__name__
    raise InputError(
        f"encoder {name!r}: returns {shape} for an image, not one embedding of "
        f"{_counts(network)[0]} numbers; to pool its feature maps, use {name}/gem"
    )


def _deepest_maps(network: Any, name: str, example: Tensor) -> nn.Module | None:
    """Return the network as a module that returns its last feature maps, None if it has none.

    They are its output without pooling, as maps or as tokens that are as many as the patches of
    the image. Where they are neither, they are timm's intermediate features of the last block.
    """
    counts = _counts(network)
    try:
        network.reset_classifier(0, global_pool="")
    except (AssertionError, AttributeError, TypeError, ValueError):  # it has only pooled output
        output = None
    else:
        output = _run(network, name, example)
    if isinstance(output, torch.Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
        maps = _nchw(network, output, [counts])
        if maps is not None:
            return maps
    if isinstance(output, torch.Tensor) and output.ndim == 3 and output.shape[2] in counts:
        prefix = int(getattr(network, "num_prefix_tokens", None) or 0)
        grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
        if grid is not None and grid[0] * grid[1] == output.shape[1] - prefix > 1:
            return _TokenMaps(network, prefix, (int(grid[0]), int(grid[1])))
    return _last_intermediate(network, example)


def _last_intermediate(network: Any, example: Tensor) -> nn.Module | None:
    """Return the network as a module that returns the maps of its last block, None if it has none.

    timm returns them as ``(n, c, h, w)``, whatever the axis order inside the network.
    """
    if not hasattr(network, "forward_intermediates"):
        return None
    counts = _counts(network)
    for norm in (True, False):  # without, where timm says that it cannot normalize them
        intermediate = _LastIntermediate(network, norm=norm)
        try:
            with torch.no_grad():
                shape = intermediate(example).shape
        except (AssertionError, RuntimeError, TypeError, ValueError):
            continue
        if len(shape) == 4 and shape[1] in counts:
            return intermediate
    return None


def _nchw(
    network: Any, output: Tensor | list[Tensor], counts: Sequence[tuple[int, ...]]
) -> nn.Module | None:
    """Return the network as a module that returns its maps as ``(n, c, h, w)``.

    Args:
        network: returns maps in the axis order of its ``output_fmt``, timm's default ``NCHW``.
        output: of the network for an image, maps or a list of them.
        counts: for each of them the numbers of channels that timm documents.

    Returns:
        None where an output does not have one of these on the axis of its channels.
    """
    order = getattr(network, "output_fmt", None)
    axis = _CHANNEL_AXIS.get(order or "NCHW")
    if axis is None:
        return None
    several = isinstance(output, list)
    for maps, allowed in zip(output if several else [output], counts, strict=True):
        if maps.ndim != 4 or maps.shape[axis] not in allowed:
            return None
        if order is None and maps.shape[3] in allowed:  # either axis could be that of channels
            return None
    return _Maps(network, channels_last=axis == 3, several=several)


class _Maps(nn.Module):
    """Returns a list of the network's maps ``(n, c, h, w)``."""

    def __init__(self, network: nn.Module, *, channels_last: bool, several: bool) -> None:
        super().__init__()
        self.network = network
        self._channels_last, self._several = channels_last, several

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Return the maps of images ``(n, 3, height, width)``."""
        output = self.network(images)
        maps = [self._first(each) for each in (output if self._several else [output])]
        return maps if self._several else maps[0]

    def _first(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 3, 1, 2) if self._channels_last else maps


class _TokenMaps(nn.Module):
    """Returns a transformer's tokens of patches as maps ``(n, c, h, w)``."""

    def __init__(self, network: nn.Module, prefix: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self._prefix, self._grid = prefix, grid

    def forward(self, images: Tensor) -> Tensor:
        """Return the maps of images ``(n, 3, height, width)``."""
        tokens: Tensor = self.network(images)[:, self._prefix :].transpose(1, 2)
        return tokens.reshape(*tokens.shape[:2], *self._grid)


class _LastIntermediate(nn.Module):
    """Returns the last of timm's intermediate features, which are maps ``(n, c, h, w)``."""

    def __init__(self, network: Any, *, norm: bool) -> None:
        super().__init__()
        self.network = network
        self._norm = norm

    def forward(self, images: Tensor) -> Tensor:
        """Return the maps of images ``(n, 3, height, width)``."""
        maps: Tensor = self.network.forward_intermediates(
            images, indices=1, norm=self._norm, output_fmt="NCHW", intermediates_only=True
        )[-1]
        return maps
