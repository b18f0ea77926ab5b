"""What a clip must be that an engine is to overhear."""

from __future__ import annotations

import numpy as np

from omni_rt.engine.api import CLIP_MS, INPUT_RATE, EngineError, Pcm


def check_clip(pcm: Pcm) -> None:
    """Raises EngineError `bad_clip` for anything but CLIP_MS of 16 kHz int16."""
    if pcm.dtype != np.int16 or pcm.ndim != 1:
        raise EngineError("bad_clip", f"a clip is a row of int16, not {pcm.dtype} of shape {pcm.shape}")
    shortest, longest = CLIP_MS
    if not shortest * INPUT_RATE <= len(pcm) * 1000 <= longest * INPUT_RATE:
        raise EngineError(
            "bad_clip", f"a clip is {shortest} to {longest} ms long, not {len(pcm) * 1000 / INPUT_RATE:.0f}"
        )
