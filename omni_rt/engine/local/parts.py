"""What all sessions of the local engine share: the loaded models, and who may use the cores when."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from omni_rt.config import LocalSettings
from omni_rt.engine.api import EngineError, SessionSettings
from omni_rt.engine.local.asr import Recogniser
from omni_rt.engine.local.chat import ChatModel
from omni_rt.engine.local.context import Marks
from omni_rt.engine.local.eyes import Eyes
from omni_rt.engine.local.priorities import Priorities
from omni_rt.engine.local.tools import grammar
from omni_rt.engine.local.tts import Speech, Voice, voices

LANGUAGES = ("en",)


class Voices:
    """The voices on this machine, each loaded when it is first needed."""

    def __init__(self) -> None:
        self.names = voices()
        self._loaded: dict[str, Voice] = {}
        self._lock = threading.Lock()

    def load(self, name: str) -> Voice:
        """Blocks for as long as loading takes; "" is the first one. Raises EngineError."""
        with self._lock:
            voice = self._loaded.get(name or self.names[0])
            if voice is None:
                voice = self._loaded[name or self.names[0]] = Voice(name or self.names[0])
            return voice

    def speak(self, name: str, text: str) -> Speech:
        return self.load(name).speak(text)


@dataclass(frozen=True, slots=True)
class Parts:
    settings: LocalSettings
    priorities: Priorities
    chat: ChatModel
    marks: Marks
    recogniser: Recogniser
    voices: Voices
    eyes: Eyes | None

    def check(self, settings: SessionSettings) -> None:
        """Raises EngineError for what no session of this engine can be."""
        language = settings.language.lower().partition("-")[0]
        if language and language not in LANGUAGES:
            raise EngineError(
                "unknown_language",
                f"the local engine understands {', '.join(LANGUAGES)}, not {settings.language!r}",
            )
        if settings.voice and settings.voice not in self.voices.names:
            raise EngineError(
                "unknown_voice", f"there is no voice {settings.voice!r}; there are: {', '.join(self.voices.names)}"
            )
        grammar(settings.tools, "auto")
