"""Which stored tensor goes where: every name under which a Qwen3-Omni checkpoint keeps a parameter.

Released files keep the experts one by one and the encoders and decoder layers directly under `thinker`; transformers 5
keeps them stacked and under `thinker.model` in memory. Folders of either kind load, also mixed, and those of a thinker
alone, whose names may lack the `thinker.` in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from omni_rt.engine.api import EngineError
from omni_rt.engine.memory import available_memory
from omni_rt.engine.qwen3_omni.checkpoint import Reader, Stored, few
from omni_rt.engine.qwen3_omni.quantised import quantise

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are in place."""

_SCALE = "_scale"
_SPEAKING = ("talker.", "code2wav.")
_TABLES = (".inv_freq", ".code_offset", ".positional_embedding")
_MOVED = (
    ("thinker.audio_tower.", "thinker.model.audio_tower."),
    ("thinker.visual.", "thinker.model.visual."),
    ("thinker.model.layers.", "thinker.model.language_model.layers."),
    ("thinker.model.embed_tokens.", "thinker.model.language_model.embed_tokens."),
    ("thinker.model.norm.", "thinker.model.language_model.norm."),
)


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a stored tensor: a whole parameter, or the rows `first` to `last` of one of its experts."""

    parameter: str
    expert: int | None = None
    first: int = 0
    last: int = 0

    def of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The contiguous part of the parameter."""
        whole = parameters[self.parameter]
        return whole if self.expert is None else whole[self.expert, self.first : self.last]


def pieces(name: str, shape: torch.Size) -> dict[str, Slot]:
    """How released files keep a parameter: stacked experts [experts, rows, columns] one by one, all else whole.

    The keys are names in memory, but for the experts.
    """
    stem, _, kind = name.rpartition(".")
    if not stem.endswith(".experts"):
        return {name: Slot(name)}
    experts, rows, _ = shape
    if kind == "down_proj":
        return {f"{stem}.{e}.down_proj.weight": Slot(name, e, 0, rows) for e in range(experts)}
    half = rows // 2
    gates = {f"{stem}.{e}.gate_proj.weight": Slot(name, e, 0, half) for e in range(experts)}
    return gates | {f"{stem}.{e}.up_proj.weight": Slot(name, e, half, rows) for e in range(experts)}


def name_in_memory(stored: str) -> str:
    """The name that the module tree has for a name in a file; the experts stay one by one."""
    name = stored if stored.startswith(("thinker.", *_SPEAKING)) else f"thinker.{stored}"
    for released, memory in _MOVED:
        if name.startswith(released):
            return memory + name[len(released) :]
    return name


def released_name(name: str) -> str:
    """The name that released files have for a name in memory."""
    for released, memory in _MOVED:
        if name.startswith(memory):
            return released + name[len(memory) :]
    return name


def plan(model: nn.Module, stored: Iterable[Stored]) -> list[tuple[Stored, Slot]]:
    """Where each stored tensor goes; the model may be on the meta device.

    Speech weights of a model that only writes, and tables that are computed rather than trained, go nowhere. Raises
    EngineError `weights_mismatch` for a tensor that is missing, unknown, there twice or of another shape.
    """
    parameters = dict(model.named_parameters())
    parts = {name: pieces(name, parameter.shape) for name, parameter in parameters.items()}
    slots = {key: slot for group in parts.values() for key, slot in group.items()}
    slots |= {name: Slot(name) for name in parameters}
    speaks = any(name.startswith(_SPEAKING) for name in parameters)
    found: dict[str, tuple[Stored, Slot]] = {}
    unknown = []
    for tensor in stored:
        name = name_in_memory(tensor.name)
        if name in found:
            raise _mismatch(f"{tensor.name} and {found[name][0].name} are one and the same tensor")
        if name in slots:
            slot = slots[name]
            if tensor.shape != slot.of(parameters).shape:
                raise _mismatch(
                    f"{tensor.name} in {tensor.path} has shape {list(tensor.shape)}, config.json asks for "
                    f"{list(slot.of(parameters).shape)}"
                )
            found[name] = (tensor, slot)
        elif not name.endswith(_TABLES) and (speaks or not name.startswith(_SPEAKING)):
            unknown.append(tensor.name)
    missing = []
    for name, group in parts.items():
        absent = [key for key in group if key not in found]
        if name not in found:
            missing += absent
        elif len(group) > 1 and len(absent) < len(group):
            raise _mismatch(f"{released_name(name)} is there both whole and in pieces")
    if missing or unknown:
        wrongs = [f"{few([released_name(name) for name in missing])} missing from the files"] if missing else []
        wrongs += [f"{few(unknown)} in the files unknown to the model of config.json"] if unknown else []
        raise _mismatch("; ".join(wrongs))
    return list(found.values())


def fill(model: nn.Module, planned: list[tuple[Stored, Slot]], progress: Progress | None = None) -> None:
    """Read every tensor into its place, in the order of the files. Raises EngineError."""
    parameters = dict(model.named_parameters())
    total, done = sum(stored.size for stored, _ in planned), 0
    first = next(iter(parameters.values()))
    with torch.no_grad(), Reader(first.device) as reader:
        for stored, slot in sorted(planned, key=lambda pair: (pair[0].path, pair[0].offset)):
            scale = scale_of(slot.parameter, parameters)
            scale = None if scale is None else replace(slot, parameter=slot.parameter + _SCALE).of(parameters)
            with filling(slot.of(parameters), scale, first.dtype) as target:
                reader.copy(stored, target)
            done += stored.size
            if progress is not None:
                progress(done, total)


def scale_of(name: str, parameters: Mapping[str, Tensor]) -> Tensor | None:
    """The scale of a parameter that is held in 8 bit; it is a parameter itself."""
    return parameters.get(name + _SCALE)


@contextmanager
def filling(target: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Iterator[Tensor]:
    """Something to write a weight to; in 8 bit (where there is a scale) it is quantised when the block ends."""
    if scale is None:
        yield target
        return
    written = torch.empty(target.shape, dtype=dtype, device=target.device)
    yield written
    quantise(written, target, scale)


def materialise(model: nn.Module, device: torch.device) -> None:
    """Give a model on the meta device uninitialised parameters on `device`, in their dtypes.

    Raises EngineError `no_device` for a GPU that is not there, and `too_little_memory` before anything is taken.
    """
    needed = sum(parameter.nbytes for parameter in model.parameters())
    available = free_memory(device)
    if available is not None and needed > available:
        raise _too_little(device, needed, available)
    try:
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                made = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                setattr(module, name, nn.Parameter(made, requires_grad=False))
    except torch.OutOfMemoryError as error:
        raise _too_little(device, needed, free_memory(device) or 0) from error


def free_memory(device: torch.device) -> int | None:
    """Bytes that may still be taken on a device; None where that is not known."""
    if device.type == "cpu":
        return available_memory()
    if device.type != "cuda":
        return None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise EngineError(
            "no_device", f"there is no device {device}, torch sees {count} CUDA devices; check the driver, or take cpu"
        )
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def _too_little(device: torch.device, needed: int, available: int) -> EngineError:
    where = "main memory" if device.type == "cpu" else f"memory of {device}"
    return EngineError(
        "too_little_memory",
        f"the weights take {needed:,} bytes of {where}, {available:,} are free; end other programs or take a larger "
        "device",
    )


def _mismatch(what: str) -> EngineError:
    return EngineError(
        "weights_mismatch", f"the weights do not fit: {what}; use config.json and files of one and the same checkpoint"
    )
