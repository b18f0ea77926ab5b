"""Checkpoint folders load completely: as Hugging Face saves them, with released names, and with the names in memory."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from omni_rt.engine.qwen3_omni.checkpoint import read_headers
from omni_rt.engine.qwen3_omni.model import load
from tools.exact.draw import Draw, draw
from tools.exact.lines import Line

_EXPERTS = re.compile(r"(.*\.mlp\.experts)\.(gate_up|down)_proj")


def lines(seed: int) -> list[Line]:
    """What loads, compared number by number with the model that was saved."""
    drawn = draw(seed)
    wanted = {name: tensor.detach() for name, tensor in drawn.reference.named_parameters()}
    released = dict(released_layout(wanted))
    found = []
    with tempfile.TemporaryDirectory() as place:
        saved = Path(place, "saved")
        drawn.reference.save_pretrained(saved, max_shard_size=_shard_bytes(drawn))
        names = {stored.name for stored in read_headers(saved)}
        wrong = len(names ^ released.keys())
        found.append(Line("names that Hugging Face saves = released names", None, wrong, len(names)))
        found.append(_compared("a folder saved by Hugging Face", saved, wanted))
        config = drawn.config.to_json_string()
        sharded = write(
            Path(place, "released"), config, released, drawn.rng("shards").integers(3, size=len(released)).tolist()
        )
        found.append(_compared("released names, experts one by one, in shards", sharded, wanted))
        single = write(Path(place, "memory"), config, wanted)
        found.append(_compared("the names in memory, experts stacked, in one file", single, wanted))
    return found


def released_layout(parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Parameters of transformers 5 as a release stores them: short names under `thinker`, every expert for itself."""
    for name, tensor in parameters.items():
        short = re.sub(r"^thinker\.model\.(audio_tower|visual)\.", r"thinker.\1.", name)
        short = re.sub(r"^thinker\.model\.language_model\.", "thinker.model.", short)
        stacked = _EXPERTS.fullmatch(short)
        if stacked is None:
            yield short, tensor
            continue
        for number, expert in enumerate(tensor):
            if stacked[2] == "down":
                yield f"{stacked[1]}.{number}.down_proj.weight", expert
            else:
                gate, up = expert.chunk(2)
                yield f"{stacked[1]}.{number}.gate_proj.weight", gate
                yield f"{stacked[1]}.{number}.up_proj.weight", up


def write(folder: Path, config: str, tensors: Mapping[str, Tensor], shards: Sequence[int] = ()) -> Path:
    """A checkpoint folder of these tensors: in one file, or each in the one that `shards` says, from 0 on."""
    folder.mkdir()
    (folder / "config.json").write_text(config, encoding="utf-8")
    copies = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    if not len(shards):
        save_file(copies, folder / "model.safetensors")
        return folder
    choice = dict(zip(copies, map(int, shards), strict=True))
    files = [f"model-{number + 1:05}-of-{max(choice.values()) + 1:05}.safetensors" for number in choice.values()]
    for file in set(files):
        save_file({name: copies[name] for name, its in zip(copies, files, strict=True) if its == file}, folder / file)
    index = {"metadata": {}, "weight_map": dict(zip(copies, files, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def _shard_bytes(drawn: Draw) -> int:
    return int(drawn.rng("shard size").integers(20_000_000, 60_000_000))


def _compared(what: str, folder: Path, wanted: Mapping[str, Tensor]) -> Line:
    told: list[tuple[int, int]] = []
    model = load(str(folder), device="cpu", dtype=torch.float32, progress=lambda *at: told.append(at))
    found = dict(model.named_parameters())
    error = 0.0 if found.keys() == wanted.keys() and told[-1][0] == told[-1][1] else float("inf")
    for name in found.keys() & wanted.keys():
        error = max(error, float((found[name] - wanted[name]).abs().max()))
    return Line(what, None, error, len(wanted), f"{told[-1][1]:,} bytes, all keys used, none missing")
