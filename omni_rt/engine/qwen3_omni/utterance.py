"""What the user says and shows in one turn, on its way into the context while it is still going on."""

from __future__ import annotations

from collections import deque
from copy import copy

from omni_rt.engine.api import INPUT_RATE, Pcm, Rgb
from omni_rt.engine.qwen3_omni import pieces
from omni_rt.engine.qwen3_omni.camera import Shot, Snapshots
from omni_rt.engine.qwen3_omni.context import Context, Turn
from omni_rt.engine.qwen3_omni.interleaved import Interleaved
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.engine.qwen3_omni.segments import Body, Separate

# A pair spans two frames of the camera; a frame that comes a little early is not missed.
_PAIR_FRAMES = 1.8


class Utterance:
    """One user turn that is fed. Changes the turn's pieces, and tells the context so.

    `prior` is the loudest cell of the utterances before. With `camera` the turn is shown a camera's frames from its
    beginning, which may be interleaved with the audio (setting `qwen.mix`).
    """

    def __init__(
        self, parts: Parts, context: Context, turn: Turn, prior: float | None, *, camera: bool = False
    ) -> None:
        self.turn = turn
        self._parts = parts
        self._context = context
        self._audio = parts.audio_stream(prior)
        self._interleaved = camera and parts.settings.mix == "interleaved"
        self._body: Body = Interleaved(parts) if self._interleaved else Separate(parts)
        pairs = parts.settings.frame_pairs
        self._camera = Snapshots(_PAIR_FRAMES * 1000 / parts.frames_per_second if pairs else 0.0, pairs=pairs)
        self._opening = pieces.text(parts.prompt.user_open)
        self._pictures: deque[Shot] = deque()
        self._words: list[int] = []
        self._closed = False
        self.samples = 0
        self.audio_tokens = 0
        self.finished = False
        """Closed, and all of it is in the turn's pieces."""
        self._write()

    def copy(self, turn: Turn) -> Utterance:
        """The same utterance, to go on independently as `turn`."""
        other = Utterance.__new__(Utterance)
        other.__dict__.update(self.__dict__)
        other.turn = turn
        other._audio = self._audio.copy()
        other._body = self._body.copy()
        other._camera = copy(self._camera)
        other._pictures = deque(self._pictures)
        turn.pieces = list(self.turn.pieces)
        return other

    # -- fed

    def append(self, pcm: Pcm) -> None:
        """Sound, 16 kHz."""
        self._audio.append(pcm)
        self.samples += len(pcm)

    def show(self, rgb: Rgb, *, camera: bool) -> None:
        """A picture; a camera's newest takes the place of one not yet looked at."""
        if camera and not self._interleaved:
            self._camera.show(rgb, self._now_ms)
        else:
            self._pictures.append(Shot((rgb,), self._now_ms))

    def write(self, text: str) -> None:
        """Words that were typed; they come behind everything shown and said."""
        self._words = self._parts.tokenizer.encode(text)

    def close(self) -> None:
        self._closed = True

    # -- worked on

    @property
    def due(self) -> bool:
        waiting = bool(self._pictures) or self._camera.ready(self._now_ms)
        return not self.finished and (waiting or self._closed or self._audio.due)

    @property
    def ending(self) -> tuple[int, ...]:
        """What the last piece of a finished turn begins with: the end of the audio, if that was last."""
        return self._body.ending

    @property
    def maximum(self) -> float:
        """Loudest cell of the log-mel so far, for the next utterance to start from."""
        return self._audio.maximum

    def work(self) -> None:
        """One bounded piece of what is due."""
        shot = self._pictures.popleft() if self._pictures else None
        if shot is None:
            shot = self._camera.take(self._now_ms, closing=self._closed)
        if shot is not None:
            self._body.look(shot.frames, shot.at_ms / 1000)
        else:
            update = self._audio.close() if self._closed else self._audio.update()
            if update is not None:
                self.audio_tokens = update.keep + len(update.features)
                self._body.hear(update)
            if self._closed:
                self._body.finish(self.samples / INPUT_RATE)
                self.finished = True
        self._write()

    # -- inside

    @property
    def _now_ms(self) -> float:
        return 1000 * self.samples / INPUT_RATE

    def _write(self) -> None:
        body = self._body.pieces
        closing = []
        if self.finished:
            closing.append(pieces.text((*self._body.ending, *self._words, *self._parts.prompt.user_close)))
        empty = self.finished and not body and not self._words
        self.turn.pieces = [] if empty else [self._opening, *body, *closing]
        self._context.changed()
