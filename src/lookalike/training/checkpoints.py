"""Checkpoints of a training run: weights, optimizer state and position, for an exact resume.

``checkpoint.json`` names its safetensors file and is written last, by an atomic rename, so that a
kill at any moment leaves either the previous checkpoint or the new one.
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

from lookalike.artifacts import OLDEST_RUN, read_manifest, write_atomically, write_manifest
from lookalike.documents import Fields
from lookalike.errors import ArtifactError, SettingError
from lookalike.files import bare_name, open_regular
from lookalike.training.run_folder import CHECKPOINT_MANIFEST

_HINT = "train again into a new folder"
_MAX_STEPS, _MAX_LOSS = 1 << 50, 1e300

_RUN_DEFAULTS = {"processes": 1, "code_size": None, "widths": None}
"""Values of keys that a run may leave out."""


@dataclass(slots=True)
class TrainingState:
    """The position of a run: ``epoch`` completed epochs, and ``step`` steps of the next.

    ``loss_sum`` is the sum of the losses of those steps, ``loss_marks`` its values after each
    twentieth of the epoch as (step, sum); ``seconds`` is training time. ``run`` holds what must not
    change on resume (recipe, augment, seed, data; the number of processes unless it is 1).
    """

    run: Mapping[str, Any]
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_marks: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def save(
    folder: Path, state: TrainingState, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Replace the checkpoint.

    Raises:
        StorageError: it could not be written; the previous one is unchanged.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in slots.items()}
    name = f"checkpoint-{state.epoch:05d}-{state.step:07d}.safetensors"
    write_atomically(folder / name, save_tensors(plain_tensors(tensors)))
    write_manifest(folder / CHECKPOINT_MANIFEST, {**asdict(state), "weights": name})
    for old in folder.glob("checkpoint-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def plain_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors as safetensors writes them: on the CPU, contiguous, none shared by two names.

    Custom networks may share weights between layers.
    """
    plain: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        tensor = value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return plain


def read_run(folder: Path) -> Mapping[str, Any]:
    """Return what a checkpoint says of its run.

    Raises:
        ArtifactError: there is no checkpoint, it is damaged, or an older lookalike wrote it.
    """
    return _read(folder).mapping("run")


def _read(folder: Path) -> Fields:
    manifest = read_manifest(folder / CHECKPOINT_MANIFEST, what="a training run to resume")
    if manifest["format"] < OLDEST_RUN:
        raise ArtifactError(
            f"{folder}: written by an older lookalike (format {manifest['format']}); it cannot be "
            "resumed. Train again into a new folder"
        )
    return Fields(manifest, str(folder / CHECKPOINT_MANIFEST), _HINT)


def load(
    folder: Path,
    run: Mapping[str, Any],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> TrainingState:
    """Restore model and optimizer from a checkpoint, and return the state of the run.

    Raises:
        ArtifactError: there is no checkpoint, it is damaged, or an older lookalike wrote it.
        SettingError: it belongs to another run (recipe, augment, seed or data differ).
    """
    fields = _read(folder)
    try:
        saved, current = ({**_RUN_DEFAULTS, **each} for each in (fields.mapping("run"), run))
        changed = [key for key in current if saved.get(key) != current[key]]
        if changed:
            details = ", ".join(f"{key} was {saved.get(key)}, is {current[key]}" for key in changed)
            raise SettingError(f"{folder}: cannot resume with other settings ({details})")
        weights = bare_name(fields.text("weights"), fields.place)
        with open_regular(folder / weights, follow=False) as file:
            tensors = load_tensors(file.read())
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
        _check_slots(optimizer)
        _match_memory_layout(optimizer)
        return TrainingState(
            run=fields.mapping("run"),
            epoch=fields.integer("epoch", 0, _MAX_STEPS),
            step=fields.integer("step", 0, _MAX_STEPS),
            loss_sum=fields.number("loss_sum", -_MAX_LOSS, _MAX_LOSS),
            loss_marks=_loss_marks(fields),
            seconds=fields.number("seconds", 0, _MAX_LOSS),
            history=[dict(each.values) for each in fields.objects("history")],
        )
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder}: the checkpoint cannot be read ({error}); {_HINT}"
        ) from error


def _loss_marks(fields: Fields) -> list[tuple[int, float]]:
    """Return pairs of step and sum of losses."""
    marks: list[tuple[int, float]] = []
    for mark in fields.items("loss_marks"):
        match mark:
            case [int(step), int(loss) | float(loss)]:
                marks.append((step, loss))
            case _:
                raise fields.invalid("loss_marks", "a list of pairs of numbers")
    return marks


def _check_slots(optimizer: torch.optim.Optimizer) -> None:
    """Check that the optimizer's state is of its weights, before its kernel reads it.

    Raises:
        ValueError: it is not.
    """
    for weight, slots in optimizer.state.items():
        if not isinstance(weight, torch.Tensor):
            raise ValueError(f"the optimizer has no weight {weight}")
        shapes = {name: tuple(value.shape) for name, value in slots.items()}
        shape = tuple(weight.shape)
        if shapes != {"step": (), "exp_avg": shape, "exp_avg_sq": shape}:
            raise ValueError("the optimizer's state is not of Adam, or of other weights")
        if not 0 <= float(slots["step"]) <= _MAX_STEPS:
            raise ValueError(f"the optimizer is at step {float(slots['step']):g}")


def _match_memory_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer's state the memory layout of its weights, as the fused kernel expects."""
    for weight, slots in optimizer.state.items():
        for name, value in slots.items():
            if value.shape == weight.shape:
                slots[name] = torch.empty_like(weight).copy_(value)
