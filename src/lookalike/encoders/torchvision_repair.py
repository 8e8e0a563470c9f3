"""Imports of packages that import torchvision where its compiled operators do not load.

torchvision's wheels on the package index are built for torch with CUDA. Beside the CPU build of
torch, as after ``pip install timm`` with that one installed, ``import torchvision`` fails with
"operator torchvision::nms does not exist": it describes operators to torch (for boxes and regions
of detectors) that were not loaded. Neither the networks exported here nor their preprocessing use
these operators.

:func:`import_beside_torchvision` then imports torchvision without these descriptions. A torchvision
that works is used as it is.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

from lookalike.config import hub_settings
from lookalike.errors import InputError, LookalikeError
from lookalike.process_state import default_environment

_DESCRIPTIONS = "torchvision._meta_registrations"
"""The module that describes the operators to torch."""

_lock = threading.Lock()


def import_beside_torchvision(package: str, purpose: str) -> ModuleType:
    """Import a package that imports torchvision, or may do so when it is used.

    Where importing torchvision fails for want of its operators, an empty module stands in for
    their descriptions while it is imported, and is removed again. What stays is torchvision in
    ``sys.modules``, which another ``import torchvision`` in this process then gets: its transforms
    work, and calling its operators raises its own RuntimeError that they could not be loaded.

    Args:
        package: the module's full name.
        purpose: what needs it, for messages, as ``encoder 'timm:resnet18'``.

    Raises:
        ModuleNotFoundError: the package, or one that it needs, is not installed.
        InputError: it or torchvision is installed, but cannot be imported.
    """
    with _importing("torchvision", purpose):
        _import_torchvision()
    # What downloads for timm and transformers reads it when it is imported, and would else retry.
    offline = {"HF_HUB_OFFLINE": "1"} if hub_settings().offline else {}
    with _importing(package.partition(".")[0], purpose), default_environment(**offline):
        return importlib.import_module(package)


@contextlib.contextmanager
def _importing(package: str, purpose: str) -> Iterator[None]:
    """Raise the error for a package that cannot be imported in the block."""
    try:
        yield
    except (ModuleNotFoundError, LookalikeError):
        raise
    except Exception as error:  # packages raise what they like when they are imported
        raise import_failure(package, purpose, error) from error


def import_failure(package: str, purpose: str, error: Exception) -> InputError:
    """Return the error for an installed package that cannot be imported; it names the reason."""
    reason = " ".join((str(error).strip() or type(error).__name__).split())[:300]
    advice = f"reinstall it: pip install --force-reinstall --no-deps {package}"
    if package == "torchvision":
        advice = "install the torchvision that belongs to this torch, or uninstall torchvision"
    return InputError(
        f"{purpose}: the package {package!r} is installed but cannot be imported ({reason}); "
        f"{advice}"
    )


def _import_torchvision() -> None:
    """Import torchvision, if it is installed, without the descriptions where these fail."""
    with _lock:
        if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
            return
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::" not in str(error) or _DESCRIPTIONS in sys.modules:
                raise
            stand_in = sys.modules[_DESCRIPTIONS] = ModuleType(_DESCRIPTIONS)
            try:
                importlib.import_module("torchvision")
            finally:
                if sys.modules.get(_DESCRIPTIONS) is stand_in:
                    del sys.modules[_DESCRIPTIONS]


def torchvision_lacks_operators() -> bool:
    """Return whether torchvision was imported without its compiled operators."""
    return "torchvision" in sys.modules and _DESCRIPTIONS not in sys.modules


def offline_hint() -> str:
    """Return the end of a message about weights that are not here, where requests are forbidden."""
    offline = hub_settings().offline
    return f"; {offline} is set" if offline else ""
