"""Triton's interpreter replaces the functions of its language, whenever a kernel or a function of one is called. It
looks for them all anew each time, which is half of the time it takes. Here they are looked for once, and replaced once
for a kernel."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

_replace = interpreter._patch_lang
_numpy_type = interpreter._get_np_dtype
_replaced: set[frozenset[str]] = set()
"""Within the kernel that runs."""
_numpy_types: dict[str, np.dtype[Any]] = {}


class _Scope(interpreter._LangPatchScope):
    """Of a kernel. That of a function within one is never restored."""

    def restore(self) -> None:
        _replaced.clear()
        super().restore()


@cache
def _builtins(holder: Any) -> list[str]:
    return [name for name, member in inspect.getmembers(holder) if tl.core.is_builtin(member)]


@cache
def _languages(function: Any) -> frozenset[str]:
    """By what names of the language's modules a function knows them."""
    values = [value for value in function.__globals__.values() if inspect.ismodule(value)]
    return frozenset(value.__name__ for value in values if value in (tl, tl.core))


def _patch_builtin(holder: Any, builder: Any, scope: Any) -> None:
    for name in _builtins(holder):
        member = getattr(holder, name)
        if tl.core.is_builtin(member):
            interpreter._patch_attr(holder, name, member, builder, scope)


def _patch_lang(function: Any) -> Any:
    languages = _languages(function)
    if languages in _replaced:
        return _Scope()
    _replaced.add(languages)
    scope = _Scope()
    scope._changes = _replace(function)._changes
    return scope


def _get_np_dtype(kind: Any) -> np.dtype[Any]:
    name = (kind.element_ty if isinstance(kind, tl.block_type) else kind).name
    if name not in _numpy_types:
        _numpy_types[name] = _numpy_type(kind)
    return _numpy_types[name]


def install() -> None:
    """For this process, before the first kernel runs, so that all functions are seen as they are."""
    interpreter._patch_builtin = _patch_builtin
    interpreter._patch_lang = _patch_lang
    interpreter._get_np_dtype = _get_np_dtype
