"""The Qwen3-Omni engine as tests serve it whole: tiny random weights, which answer with random words and noise."""

from __future__ import annotations

import re
import time
from collections import deque
from typing import Any

from torch import Tensor

from omni_rt.config import Settings, cache_dir
from omni_rt.engine.api import EngineListener, Role, SessionSettings
from omni_rt.engine.qwen3_omni import reply
from omni_rt.engine.qwen3_omni.engine import QwenEngine
from omni_rt.engine.qwen3_omni.session import QwenSession
from omni_rt.engine.qwen3_omni.tokenizer import MARKERS, Tokenizer
from omni_rt.models.manifest import QWEN_TOKENIZER
from omni_rt.models.store import ModelStore

CONTEXT = 2048
TINY = (
    "engine.kind=qwen3_omni",
    "qwen.weights=random:tiny",
    "qwen.device=cpu",
    f"qwen.context_tokens={CONTEXT}",
    "qwen.max_reply_tokens=64",
)
"""Settings as `section.key=value`. A reply of one text token has 2.6 s of sound, each further one 0.64 s."""

SCRIPTED = f"{__name__}:ScriptedQwen"
WRITE = "!write "

_MARKER = re.compile(f"({'|'.join(map(re.escape, MARKERS))})")


class ScriptedQwen(QwenEngine):
    """A mock of the sampling and of nothing else, because random weights cannot be made to think or to call a tool.

    A text item `!write WORDS` is part of the prompt like any other, and WORDS become the thinker's next choices, token
    by token, markers as their own tokens, then the end of the turn. All that makes of the choices what is heard, called
    and remembered is the engine's own. A choice that the engine suppresses is an error.
    """

    def __init__(self, settings: Settings) -> None:
        store = ModelStore(cache_dir())
        super().__init__(settings, store)
        self._words = Tokenizer.from_ranks(store.path(QWEN_TOKENIZER))
        self._script: deque[int] = deque()
        self.slowness_s = 0.0
        """What every token of a script takes at least."""
        self._sample = reply.choose
        reply.choose = self._choose  # type: ignore[assignment]

    async def open(self, session_id: str, settings: SessionSettings, listener: EngineListener) -> QwenSession:
        session = await super().open(session_id, settings, listener)
        append_text = session.append_text

        def overhear(text: str, role: Role, item_id: str) -> None:
            if text.startswith(WRITE):
                self._script += [*tokens(self._words, text.removeprefix(WRITE)), MARKERS["<|im_end|>"]]
            append_text(text, role, item_id)

        session.append_text = overhear  # type: ignore[method-assign]
        return session

    async def close(self) -> None:
        await super().close()
        reply.choose = self._sample

    def _choose(self, logits: Tensor, *rest: Any, suppressed: Tensor, **more: Any) -> Tensor:
        sampled = self._sample(logits, *rest, suppressed=suppressed, **more)
        if not self._script:
            return sampled
        time.sleep(self.slowness_s)
        token = self._script.popleft()
        if suppressed[token]:
            raise ValueError(f"the engine does not let the model write token {token}")
        return sampled.new_tensor([token])


def tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """Text with markers in it as the model would write it."""
    parts = (part for part in _MARKER.split(text) if part)
    return [token for part in parts for token in ([MARKERS[part]] if part in MARKERS else tokenizer.encode(part))]
