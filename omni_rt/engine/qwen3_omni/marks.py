"""Places of a conversation that it can be turned back to."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from omni_rt.engine.api import EngineError, Rgb
from omni_rt.engine.qwen3_omni.context import Turn
from omni_rt.engine.qwen3_omni.utterance import Utterance

_KEPT = 16


@dataclass(frozen=True, slots=True)
class Place:
    """The turns at a mark, and the utterance that was open then, as a copy that nobody feeds."""

    turns: tuple[Turn, ...]
    utterance: Utterance | None
    frame: Rgb | None


class Marks:
    """The latest ones, by their numbers, which grow."""

    def __init__(self) -> None:
        self._places: OrderedDict[int, Place] = OrderedDict()

    def set(self, serial: int, place: Place) -> None:
        self._places[serial] = place
        while len(self._places) > _KEPT:
            self._places.popitem(last=False)

    def back_to(self, serial: int) -> Place:
        """The place of a mark; all marks behind it are void. Raises EngineError `unknown_mark`."""
        place = self._places.get(serial)
        if place is None:
            raise EngineError("unknown_mark", f"mark {serial} was never set, or is void by now")
        for later in [other for other in self._places if other > serial]:
            del self._places[later]
        return place

    def clear(self) -> None:
        self._places.clear()
