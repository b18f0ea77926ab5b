"""The Qwen3-Omni engine as tests serve it whole: tiny random weights, which answer with random words and noise."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Sequence

from torch import Tensor

from omni_rt.config import Settings, cache_dir
from omni_rt.engine.api import EngineListener, Role, SessionSettings
from omni_rt.engine.qwen3_omni.engine import QwenEngine
from omni_rt.engine.qwen3_omni.machine import PlainMachine, suppressed
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.engine.qwen3_omni.requests import Choice
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

    def _load(self) -> Parts:
        parts = super()._load()
        machine = parts.machine
        assert isinstance(machine, PlainMachine)
        sample = machine._choose
        banned = suppressed(parts.spec.text.vocab)

        def choose(hidden: Tensor, choices: Sequence[Choice]) -> list[int]:
            sampled = sample(hidden, choices)
            for number, choice in enumerate(choices):
                if choice.allowed == "any" or not self._script:
                    continue
                time.sleep(self.slowness_s)
                sampled[number] = self._script.popleft()
                if banned[choice.allowed][sampled[number]]:
                    raise ValueError(f"the engine does not let the model write token {sampled[number]}")
            return sampled

        machine._choose = choose  # type: ignore[method-assign]
        return parts

    async def open(self, session_id: str, settings: SessionSettings, listener: EngineListener) -> QwenSession:
        session = await super().open(session_id, settings, listener)
        append_text = session.append_text

        def overhear(text: str, role: Role, item_id: str) -> None:
            if text.startswith(WRITE):
                self._script += [*tokens(self._words, text.removeprefix(WRITE)), MARKERS["<|im_end|>"]]
            append_text(text, role, item_id)

        session.append_text = overhear  # type: ignore[method-assign]
        return session


def tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """Text with markers in it as the model would write it."""
    parts = (part for part in _MARKER.split(text) if part)
    return [token for part in parts for token in ([MARKERS[part]] if part in MARKERS else tokenizer.encode(part))]
