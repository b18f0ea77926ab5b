"""Audio inside events: base64 of PCM at 24 kHz or of G.711 at 8 kHz."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import numpy as np

from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE, Pcm
from omni_rt.media.g711 import ALAW, G711, G711_RATE, ULAW
from omni_rt.media.resample import Resampler, resample
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.settings import AudioFormat

PCM_RATE = 24_000

_LAWS: Mapping[str, G711] = {"audio/pcmu": ULAW, "audio/pcma": ALAW}


def decode_base64(text: str, param: str) -> bytes:
    """Raises WireError naming `param` when the text is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError("invalid_base64", f"'{param}' is not valid base64: {error}.", param) from error


def wire_rate(form: AudioFormat) -> int:
    """Samples per second."""
    return G711_RATE if form.type in _LAWS else PCM_RATE


def decode_samples(text: str, form: AudioFormat, param: str) -> Pcm:
    """Mono int16 at the format's own rate. Raises WireError naming `param`."""
    data = decode_base64(text, param)
    if form.type in _LAWS:
        return _LAWS[form.type].decode(data)
    if len(data) % 2:
        raise WireError("invalid_audio", f"'{param}' has {len(data)} bytes; 16-bit samples come in pairs.", param)
    return np.frombuffer(data, dtype="<i2").astype(np.int16, copy=False)


def decode_clip(text: str, form: AudioFormat, param: str) -> Pcm:
    """A whole clip as 16 kHz mono int16. Raises WireError naming `param`."""
    return resample(decode_samples(text, form, param), wire_rate(form), INPUT_RATE)


class AudioDecoder:
    """A client's audio, piece by piece, as 16 kHz mono int16."""

    def __init__(self, form: AudioFormat) -> None:
        self.form = form
        self.rate = wire_rate(form)
        self._resampler = Resampler(self.rate, INPUT_RATE)

    def samples(self, text: str, param: str) -> Pcm:
        """What a piece holds, at `rate`. Raises WireError naming `param`."""
        return decode_samples(text, self.form, param)

    def feed(self, samples: Pcm) -> Pcm:
        """A few samples stay inside."""
        return self._resampler.feed(samples)


class AudioEncoder:
    """A reply's 24 kHz mono audio, piece by piece, as the client wants it. All text given is base64, empty for none."""

    def __init__(self, form: AudioFormat) -> None:
        self._form = form
        self._resampler = Resampler(OUTPUT_RATE, wire_rate(form))

    def feed(self, pcm: Pcm) -> str:
        return self._encode(self._resampler.feed(pcm))

    def flush(self) -> str:
        """What stayed inside; the encoder is spent after this."""
        return self._encode(self._resampler.flush())

    def _encode(self, pcm: Pcm) -> str:
        law = _LAWS.get(self._form.type)
        data = law.encode(pcm) if law else pcm.astype("<i2", copy=False).tobytes()
        return base64.b64encode(data).decode("ascii")
