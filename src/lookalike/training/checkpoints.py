"""A training run on disk: weights and optimizer state that resume exactly where they stood.

``checkpoint.json`` names the safetensors file that belongs to it and is written last, by an
atomic rename, so that a kill at any moment leaves the checkpoint before or the one after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from lookalike.artifacts import FORMAT, read_manifest, write_atomically, write_manifest
from lookalike.errors import ArtifactError, SettingError

MANIFEST = "checkpoint.json"

_UNSAID = {"processes": 1}
"""What a run says by not saying it."""


@dataclass(slots=True)
class State:
    """Where a run stands: ``epoch`` whole epochs, then ``step`` steps of the next.

    ``loss_sum`` is the sum of the losses of those steps and ``marks`` are what it was after each
    twentieth of the epoch; ``seconds`` is training time.
    ``run`` is what must not change between the parts of a run (recipe, seed, data; the number of
    processes where it is not 1).
    """

    run: Mapping[str, Any]
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    marks: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def save(
    folder: Path, state: State, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write a checkpoint over the one before.

    Raises:
        StorageError: it could not be written; the one before is unchanged.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in slots.items()}
    name = f"checkpoint-{state.epoch:05d}-{state.step:07d}.safetensors"
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_atomically(folder / name, save_tensors(plain))
    write_manifest(folder / MANIFEST, {**asdict(state), "weights": name})
    for old in folder.glob("checkpoint-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load(
    folder: Path,
    run: Mapping[str, Any],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> State:
    """Bring model and optimizer back to a checkpoint and return where the run stood.

    Raises:
        ArtifactError: there is no checkpoint, or it is broken.
        SettingError: it belongs to another run (recipe, seed or data differ).
    """
    fields = read_manifest(folder / MANIFEST, what="a training run to resume")
    if fields["format"] != FORMAT:
        raise ArtifactError(
            f"{folder}: a training run of an older lookalike (format {fields['format']}) cannot be "
            "resumed; train again into a new folder"
        )
    try:
        found, now = ({**_UNSAID, **each} for each in (fields["run"], run))
        changed = [key for key in now if found.get(key) != now[key]]
        if changed:
            details = ", ".join(f"{key} was {found.get(key)}, is {now[key]}" for key in changed)
            raise SettingError(f"{folder}: cannot resume with other settings ({details})")
        tensors = load_tensors((folder / fields["weights"]).read_bytes())
        model.load_state_dict(
            {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        )
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            part, _, rest = key.partition(".")
            if part == "optimizer":
                index, _, name = rest.partition(".")
                slots.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
        _lay_out_like_weights(optimizer)
        names = ("run", "epoch", "step", "loss_sum", "marks", "seconds", "history")
        return State(**{name: fields[name] for name in names})
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(f"{folder}: the checkpoint cannot be read ({error})") from error


def _lay_out_like_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer's slots the memory layout of their weights, as its kernel expects."""
    for weight, slots in optimizer.state.items():
        for name, value in slots.items():
            if value.shape == weight.shape:
                slots[name] = torch.empty_like(weight).copy_(value)
