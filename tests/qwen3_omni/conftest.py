from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

# the engine's own packages come with the extra `qwen`
collect_ignore_glob = [] if find_spec("torch") and find_spec("transformers") else ["test_*.py"]

# Triton's kernels run in its interpreter where there is no GPU; it is chosen when a kernel's module is loaded.
if find_spec("torch"):
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
        if find_spec("triton"):
            from tests.support import quick_triton

            quick_triton.install()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny shapes gain nothing from more threads and lose much when something else runs on the cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights hardly ever end what they say; it is ended for them."""
    from omni_rt.engine.qwen3_omni import speech

    monkeypatch.setattr(speech, "_FRAMES_AT_LEAST", 5)
    monkeypatch.setattr(speech, "_FRAMES_PER_TOKEN", 2)
