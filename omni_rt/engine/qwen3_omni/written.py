"""What one reply wrote, and how much of it has been fed to the talker, told to the client, heard."""

from __future__ import annotations

from dataclasses import dataclass

from omni_rt.engine.qwen3_omni.heard import Pace, heard
from omni_rt.engine.qwen3_omni.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Kept:
    """What history holds of a reply: its token ids, and the text of them that was spoken."""

    ids: tuple[int, ...]
    text: str


class Written:
    """Fed by the reply in the order of writing."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._spoken: list[tuple[str, tuple[int, ...]]] = []
        self._calls: list[int] = []
        self._whole = True
        self._told = 0
        self.ids: list[int] = []

    @property
    def text(self) -> str:
        """All that is to be spoken."""
        return "".join(text for text, _ in self._spoken)

    def token(self, token: int) -> None:
        self.ids.append(token)

    def speak(self, text: str, ids: tuple[int, ...]) -> None:
        self._spoken.append((text, ids))

    def leave_out(self) -> None:
        """Some of the ids are thoughts, or a call that is none: history holds what was spoken and the whole calls."""
        self._whole = False

    def call(self, ids: tuple[int, ...]) -> None:
        self._calls += ids

    def tell(self, fed: int) -> str:
        """The text of the first `fed` tokens of speech, as far as it was not told before."""
        end = count = 0
        for text, ids in self._spoken:
            count += len(ids)
            if count > fed:
                break
            end += len(text)
        told, self._told = self._told, max(self._told, end)
        return self.text[told : self._told]

    def text_left(self) -> str:
        """What was never told."""
        told, self._told = self._told, len(self.text)
        return self.text[told:]

    # -- what history keeps

    def everything(self) -> Kept:
        """All but what is left out."""
        if self._whole:
            return Kept(tuple(self.ids), self.text.strip())
        return self._cut(len(self.text))

    def calls_only(self) -> Kept:
        return self._cut(0)

    def heard(self, played: float, frames: int, pace: Pace, *, whole: bool) -> Kept:
        """What was heard when `played` of the `frames` made were played; `whole`: no more frames will come."""
        pieces = [piece for text, ids in self._spoken for piece in (*[""] * (len(ids) - 1), text)]
        length = heard(pieces, frames, whole, played, pace).characters
        return self.everything() if length >= len(self.text) else self._cut(length)

    def _cut(self, length: int) -> Kept:
        """The first `length` characters of speech, and the calls."""
        ids: list[int] = []
        at = 0
        for text, own in self._spoken:
            if at + len(text) > length:
                ids += self._tokenizer.encode(self.text[at:length])
                break
            ids += own
            at += len(text)
        return Kept((*ids, *self._calls), self.text[:length].strip())
