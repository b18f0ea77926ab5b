"""What one session's camera shows: the newest picture, described when it has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from omni_rt.engine.api import EngineError, Rgb
from omni_rt.engine.local.eyes import ANOTHER, CHANGED, Eyes, Glimpse, describe, difference, glimpse
from omni_rt.engine.local.priorities import Priorities, Work


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    rgb: Rgb
    glimpse: Glimpse
    another: bool


class Sight:
    """`fresh` says whether a picture has come since the description was last told. `on_scene` is called when there is
    something to tell that was not before."""

    def __init__(
        self, eyes: Eyes, priorities: Priorities, on_scene: Callable[[], None], on_error: Callable[[EngineError], None]
    ) -> None:
        self._eyes = eyes
        self._priorities = priorities
        self._on_scene, self._on_error = on_scene, on_error
        self._scene = ""
        self._described: Glimpse | None = None
        self.fresh = False
        self._waiting: _Picture | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def scene(self) -> str:
        """The description, "" when no picture has come since it was last told."""
        return self._scene if self.fresh else ""

    def tell(self) -> str:
        """The description, to be told now."""
        scene = self.scene
        if scene:
            self.fresh = False
        return scene

    def show(self, rgb: Rgb) -> None:
        """The newest picture takes the place of one that has not been looked at."""
        little = glimpse(rgb)
        changed = 1.0 if self._described is None else difference(self._described, little)
        if not self.fresh:
            self.fresh = True
            self._on_scene()
        if changed < CHANGED:
            self._waiting = None
            return
        self._waiting = _Picture(rgb, little, changed >= ANOTHER)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(Work.EYES))

    async def settled(self) -> bool:
        """Wait for the description of a picture unlike the one described last; returns whether there was one."""
        if self._waiting is None or not self._waiting.another:
            return False
        if self._looking is not None:
            self._looking.cancel()
        self._looking = asyncio.create_task(self._look(Work.FINAL))
        await asyncio.wait([self._looking])
        return True

    async def describe(self, rgb: Rgb) -> str:
        """Describe a picture that is no camera's. Raises EngineError."""
        return await self._describe(rgb, Work.FINAL)

    def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self, work: Work) -> None:
        while (picture := self._waiting) is not None:
            try:
                scene = await self._describe(picture.rgb, work)
            except EngineError as error:
                self._on_error(error)
                scene = ""
            self._described = picture.glimpse
            if self._waiting is picture:
                self._waiting = None
            if scene != self._scene:
                self._scene, self.fresh = scene, True
                self._on_scene()

    async def _describe(self, rgb: Rgb, work: Work) -> str:
        run = self._priorities.run
        try:
            things = await run(work, lambda: partial(self._eyes.things, rgb))
            lines = await run(work, lambda: partial(self._eyes.lines, rgb))
            words = [await run(work, lambda line=line: partial(self._eyes.read, line)) for line in lines]  # type: ignore[misc]
        except Exception as error:
            raise EngineError("seeing_failed", f"the picture could not be looked at: {error}") from error
        return describe(things, words)
