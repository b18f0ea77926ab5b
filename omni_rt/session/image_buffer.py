"""Camera frames that come as events, thinned and scaled like those of a video track."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from omni_rt.config import MediaSettings
from omni_rt.engine.api import Rgb
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.items import decode_frame

# Longest `image` text: 2 MiB of PNG or JPEG and what base64 adds.
MAX_TEXT = 2 * 2**20 * 4 // 3 + 64


class ImageBuffer:
    """`show` gets a picture on the event loop, `frames_per_second` at most; one that comes sooner is not looked at."""

    def __init__(
        self, settings: MediaSettings, show: Callable[[Rgb], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._period = 1 / settings.frames_per_second
        self._longest = settings.frame_pixels
        self._show = show
        self._clock = clock
        self._due = 0.0

    async def append(self, image: str) -> None:
        """Raises WireError for a picture that is too large or none; such a one counts for nothing."""
        if len(image) > MAX_TEXT:
            raise WireError(
                "image_too_large", f"'image' has {len(image)} characters; at most {MAX_TEXT} are taken.", "image"
            )
        now = self._clock()
        if now < self._due:
            return
        self._show(await asyncio.to_thread(decode_frame, image, "image", self._longest))
        self._due = (self._due if now - self._due < self._period else now) + self._period
