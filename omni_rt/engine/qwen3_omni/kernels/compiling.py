"""Kernels compiled beforehand, several at a time: steps that simply ran would compile theirs one by one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from triton import AsyncCompileMode
from triton.runtime.jit import JITFunction


@contextmanager
def compiling() -> Iterator[None]:
    """Within, a kernel that is launched does not run but is compiled by another thread; at the end all are compiled.
    Raises what the compiler raises. Nothing else may launch kernels meanwhile."""
    launch = JITFunction.run

    def compile_only(kernel: Any, *args: Any, warmup: bool, **options: Any) -> Any:
        return launch(kernel, *args, warmup=True, **options)

    JITFunction.run = compile_only
    try:
        with ThreadPoolExecutor(os.cpu_count()) as threads, AsyncCompileMode(threads):
            yield
    finally:
        JITFunction.run = launch
