"""What is installed, what is missing, and what to do about it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from omni_rt.config import Settings
from omni_rt.engine.memory import available_memory
from omni_rt.models.manifest import find, is_gguf_path, needed
from omni_rt.models.store import ModelMissing, ModelStore, State
from omni_rt.server.address import AddressError, port_of, reserve

# working memory beside the chat model's weights: the other models, the server, one context per session
_BASE_MEMORY = 900_000_000

_EXTRAS = {
    "qwen": "the qwen3_omni engine",
    "flash": "the qwen3_omni engine with qwen.attention = 'flash'",
    "desktop": "microphone and loudspeaker without a browser",
    "dev": "tests and checks",
}

Level = Literal["ok", "optional", "warning", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `missing` keeps `serve` from working, `warning` may; `remedy` says what to do."""

    group: str
    name: str
    level: Level
    text: str
    remedy: str = ""


def examine(settings: Settings, store: ModelStore, names: Sequence[str]) -> list[Finding]:
    """Look at everything that serving with `settings` takes, and at the model files `names`; `verify` reads those."""
    return [
        *_python(),
        *_packages(settings),
        *_models(settings, store, names),
        *_qwen(settings),
        *_gpu(settings),
        *_machine(settings, store),
    ]


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether `serve` would work."""
    return all(finding.level != "missing" for finding in findings)


def as_json(findings: Sequence[Finding]) -> str:
    return json.dumps({"ok": healthy(findings), "findings": [asdict(finding) for finding in findings]}, indent=2)


def as_text(findings: Sequence[Finding]) -> str:
    width = max(len(finding.name) for finding in findings)
    lines, group = [], ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            lines.append(group)
        mark = {"ok": "ok", "optional": "-", "warning": "!", "missing": "MISSING"}[finding.level]
        lines.append(f"  {mark:<7}  {finding.name:<{width}}  {finding.text}")
        lines += (f"  {'':<7}  {line}" for line in finding.remedy.splitlines())
    lines.append("serve will work" if healthy(findings) else "serve will not work: see MISSING above")
    return "\n".join(lines)


def _python() -> Iterator[Finding]:
    wanted = metadata("omni-rt")["Requires-Python"]
    here = platform.python_version()
    fits = Requirement(f"python{wanted}").specifier.contains(here, prereleases=True)
    yield Finding(
        "python",
        "python",
        "ok" if fits else "missing",
        f"{here} ({sys.executable})",
        "" if fits else f"install Python {wanted}; make PYTHON=python3.12 run uses another one",
    )


def _packages(settings: Settings) -> Iterator[Finding]:
    for text in requires("omni-rt") or ():
        requirement = Requirement(text)
        extra = re.search(r"extra == ['\"](\w+)['\"]", text)
        kind = extra[1] if extra else ""
        if requirement.marker and not requirement.marker.evaluate({"extra": kind}):
            continue
        group = f"packages for {_EXTRAS.get(kind, kind)} (extra {kind!r})" if kind else "packages"
        taken = {"qwen": True, "flash": settings.qwen.attention == "flash"}
        wanted = not kind or (settings.engine.kind == "qwen3_omni" and taken.get(kind, False))
        # flash-attn is built for the PyTorch that is there, and imports it for that
        how = "--no-build-isolation " if kind == "flash" else ""
        install = f"pip install {how}'omni-rt{f'[{kind}]' if kind else ''}'"
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            level: Level = "missing" if wanted else "optional"
            yield Finding(group, requirement.name, level, "not installed", install)
            continue
        if requirement.specifier.contains(found, prereleases=True):
            yield Finding(group, requirement.name, "ok", found)
        else:
            text = f"{found}, but {requirement.specifier} is needed"
            yield Finding(group, requirement.name, "missing" if wanted else "warning", text, install)


def _models(settings: Settings, store: ModelStore, names: Sequence[str]) -> Iterator[Finding]:
    group = f"models in {store.root}"
    required = needed(settings)
    for name in names:
        model = find(name)
        state = store.check(model)
        if state is State.PRESENT:
            size = store.target(model).stat().st_size
            yield Finding(group, name, "ok", f"{size:,} bytes, verified; {model.purpose}; {model.licence}")
        else:
            lines = ("omni-rt doctor --fetch gets it", *store.by_hand(model))
            level: Level = "missing" if name in required else "warning"
            yield Finding(group, name, level, f"{state.value}; {model.purpose}", "\n".join(lines))
    if settings.uses_local and is_gguf_path(settings.local.chat_model):
        try:
            path = store.chat_model(settings.local.chat_model)
        except ModelMissing as error:
            yield Finding(group, settings.local.chat_model, "missing", "chat", str(error))
        else:
            yield Finding(group, settings.local.chat_model, "ok", f"{path.stat().st_size:,} bytes; chat; not verified")


def _qwen(settings: Settings) -> Iterator[Finding]:
    """What the qwen3_omni engine would run on, and whether its weights are there and fit."""
    if settings.engine.kind != "qwen3_omni":
        return
    group = "the qwen3_omni engine"
    try:
        from omni_rt.engine.api import EngineError
        from omni_rt.engine.qwen3_omni import needs
    except Exception as error:  # an installation of torch that is damaged raises anything
        text = f"cannot be loaded: {type(error).__name__}: {error}"
        remedy = "pip install 'omni-rt[qwen]'; with --force-reinstall if it is installed but damaged"
        yield Finding(group, "engine", "missing", text, remedy)
        return
    try:
        place = needs.place(settings.qwen)
    except EngineError as error:
        yield Finding(group, "device", "missing", str(error))
        return
    free = "free memory unknown" if place.free is None else f"{place.free / 1e9:.1f} GB free"
    slow = place.device.type == "cpu" and settings.qwen.device != "cpu"
    text = f"{place.device}: {place.name}, {free}" if place.name else f"{place.device}, {free}"
    yield Finding(group, "device", "warning" if slow else "ok", text, _no_cuda() if slow else "")
    source = settings.qwen.weights
    try:
        narrow = needs.quantisation(settings.qwen, place) if source else None
        need = needs.released(settings) if narrow is None else needs.needs(settings, place, narrow)
        if source:
            needs.check_tokenizer(settings.qwen)
    except EngineError as error:
        yield Finding(group, "weights", "missing", str(error))
        return
    if settings.qwen.attention != "auto":
        try:
            needs.backend(settings, place, need)
            yield Finding(group, "attention", "ok", settings.qwen.attention)
        except EngineError as error:
            yield Finding(group, "attention", "missing", str(error))
    caches = f"{need.caches / 1e9:.1f} GB of caches ({need.tokens:,} tokens)"
    text = f"{need.weights / 1e9:.1f} GB of {need.kind} and {caches}"
    if need.machine is not None:
        text += f", {need.machine.bytes / 1e9:.1f} GB for the kernels and graphs"
    if not source:
        remedy = "--weights FOLDER of a downloaded checkpoint, or --weights random:tiny to try the plumbing"
        yield Finding(group, "weights", "missing", f"none given; the released models take {text}", remedy)
    elif place.free is not None and place.free < need.bytes:
        changed = needs.smaller(settings, need, place.free)
        remedy = "end other programs or take a larger device" + (f";\nor set {changed}" if changed else "")
        yield Finding(group, "weights", "missing", f"{source} takes {text}; {free}", remedy)
    else:
        yield Finding(group, "weights", "ok", f"{source} takes {text}")


def _no_cuda() -> str:
    """What to do about a model that would run on the CPU."""
    torch = importlib.import_module("torch")
    if torch.version.cuda is None:
        why = f"torch {torch.__version__} is built without CUDA; pip install --force-reinstall torch takes one with it"
    else:
        why = "torch sees no CUDA device; check the NVIDIA driver"
    return f"the CPU is enough for random:tiny only, speech in real time takes an NVIDIA GPU\n{why}"


def _gpu(settings: Settings) -> Iterator[Finding]:
    found = _gpus(ask_torch=settings.engine.kind == "qwen3_omni")
    for gpu in found:
        yield Finding("machine", "gpu", "ok", gpu)
    if not found:
        yield Finding("machine", "gpu", "optional", "none")


def _gpus(*, ask_torch: bool) -> list[str]:
    """Names and memory. torch takes seconds to import and is asked only where it is needed anyway."""
    with contextlib.suppress(Exception):  # see _qwen
        torch = importlib.import_module("torch") if ask_torch else None
        if torch is not None and torch.cuda.is_available():
            devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
            return [f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in devices]
    try:
        done = subprocess.run(
            ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def _machine(settings: Settings, store: ModelStore) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding(
        "machine",
        "cores",
        "ok" if cores >= 2 else "warning",
        str(cores),
        "" if cores >= 2 else "hearing and answering at once takes two",
    )
    if (memory := available_memory()) is not None:
        need = _BASE_MEMORY + _chat_bytes(settings, store)
        low = memory < need
        text = f"{memory / 1e9:.1f} GB available; serving takes about {need / 1e9:.1f} GB"
        remedy = "--small needs less" if low and settings.uses_local else ""
        yield Finding("machine", "memory", "warning" if low else "ok", text, remedy)
    there = next(folder for folder in (store.root, *store.root.parents) if folder.exists())
    yield Finding("machine", "disk", "ok", f"{shutil.disk_usage(there).free / 1e9:.1f} GB free at {there}")
    try:
        listeners = reserve(settings.server.host, settings.server.port)
    except AddressError as error:
        address, _, remedy = str(error).partition("; ")
        yield Finding("machine", "port", "warning", address, remedy)
    else:
        for listener in listeners:
            listener.close()
        address = f"{settings.server.host}:{settings.server.port or port_of(listeners)}"
        yield Finding("machine", "port", "ok", f"{address} is free")


def _chat_bytes(settings: Settings, store: ModelStore) -> int:
    if not settings.uses_local:
        return 0
    spec = settings.local.chat_model
    path = Path(spec) if is_gguf_path(spec) else store.target(find(spec))
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0 if is_gguf_path(spec) else find(spec).bytes
