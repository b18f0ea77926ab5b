"""Triton's interpreter looks through its whole language for built-in functions, each time a jitted function is called,
which takes a third of its time. Here they are looked for once."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


@cache
def _builtins(holder: Any) -> list[str]:
    return [name for name, member in inspect.getmembers(holder) if tl.core.is_builtin(member)]


def _patch_builtin(holder: Any, builder: Any, scope: Any) -> None:
    """What the interpreter's own does: of those that it has not replaced yet."""
    for name in _builtins(holder):
        member = getattr(holder, name)
        if tl.core.is_builtin(member):
            interpreter._patch_attr(holder, name, member, builder, scope)


def install() -> None:
    """For this process. Before the first kernel runs, so that all built-in functions are seen as they are."""
    assert callable(interpreter._patch_builtin), "Triton has changed"
    interpreter._patch_builtin = _patch_builtin
