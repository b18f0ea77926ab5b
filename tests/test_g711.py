"""G.711 against the values of the recommendation and against libavcodec."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from omni_rt.engine.api import Pcm
from omni_rt.media.g711 import ALAW, G711, ULAW

EVERY_CODE = bytes(range(256))
EVERY_SAMPLE = np.arange(-32768, 32768).astype(np.int16)
BOTH = [(ULAW, "pcm_mulaw"), (ALAW, "pcm_alaw")]


def _decoded_elsewhere(codec: str, data: bytes) -> Pcm:
    context = av.CodecContext.create(codec, "r")
    assert isinstance(context, av.AudioCodecContext)
    context.sample_rate, context.layout = 8000, "mono"
    return np.concatenate([frame.to_ndarray()[0] for frame in context.decode(av.Packet(data))]).astype(np.int16)


def _encoded_elsewhere(codec: str, pcm: Pcm) -> bytes:
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, av.AudioCodecContext)
    context.sample_rate, context.layout, context.format = 8000, "mono", "s16"
    context.time_base = Fraction(1, 8000)
    frame = av.AudioFrame.from_ndarray(pcm[None, :], format="s16", layout="mono")
    frame.sample_rate, frame.pts = 8000, 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


@pytest.mark.parametrize(
    ("law", "code", "level"),
    # The ends of the recommendation's tables 1a to 2b, in 16 bits: 8031 and 4032 are the largest output values.
    [
        (ULAW, 0x80, 8031 * 4),
        (ULAW, 0x8F, 4191 * 4),
        (ULAW, 0xFE, 2 * 4),
        (ULAW, 0xFF, 0),
        (ULAW, 0x7F, 0),
        (ULAW, 0x00, -8031 * 4),
        (ALAW, 0xAA, 4032 * 8),
        (ALAW, 0xA5, 2112 * 8),
        (ALAW, 0xD5, 1 * 8),
        (ALAW, 0x55, -1 * 8),
        (ALAW, 0x2A, -4032 * 8),
    ],
)
def test_levels_of_the_recommendation(law: G711, code: int, level: int) -> None:
    assert law.decode(bytes([code])).tolist() == [level]
    if code != 0x7F:  # negative zero is never made
        assert law.encode(np.array([level], np.int16)) == bytes([code])


@pytest.mark.parametrize(("law", "codec"), BOTH)
def test_every_code_means_what_it_means_elsewhere(law: G711, codec: str) -> None:
    assert law.decode(EVERY_CODE).tolist() == _decoded_elsewhere(codec, EVERY_CODE).tolist()


@pytest.mark.parametrize(("law", "codec"), BOTH)
def test_every_sample_takes_the_nearest_level(law: G711, codec: str) -> None:
    levels = law.decode(EVERY_CODE).astype(int)
    wanted = np.abs(levels[None, :] - EVERY_SAMPLE.astype(int)[:, None]).min(axis=1)
    for encoded in (law.encode(EVERY_SAMPLE), _encoded_elsewhere(codec, EVERY_SAMPLE)):
        got = np.abs(law.decode(encoded).astype(int) - EVERY_SAMPLE)
        # libavcodec looks at 14 bits (µ-law) or 13 (A-law) of a sample, so that it may be off by a few at the borders.
        assert (got - wanted).max() <= (0 if encoded == law.encode(EVERY_SAMPLE) else 16)


@pytest.mark.parametrize(("law", "codec"), BOTH)
def test_levels_come_back_as_they_were(law: G711, codec: str) -> None:
    back = law.decode(law.encode(law.decode(EVERY_CODE)))
    assert back.tolist() == law.decode(EVERY_CODE).tolist()
