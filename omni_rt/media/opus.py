"""Opus by libopus itself: any of its sample rates in and out, packet loss concealment, forward error correction.

FFmpeg's wrapper, which aiortc uses, decodes at 48 kHz only and has no call for a lost packet; docs/transport.md says
what else was looked at. The library is the one inside PyAV's wheel, else the system's.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from omni_rt.engine.api import Pcm

RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
CLOCK_RATE = 48_000
"""RTP's clock for Opus, whatever the sample rate."""

_VOIP = 2048
_SET_BITRATE, _SET_COMPLEXITY, _SET_INBAND_FEC, _SET_PACKET_LOSS, _SET_SIGNAL, _RESET = (
    4002,
    4010,
    4012,
    4014,
    4024,
    4028,
)
_SIGNAL_VOICE = 3001
_MAX_PACKET_BYTES = 1275
_MAX_PACKET_MS = 120


class OpusError(Exception):
    """libopus refused: a corrupt packet, or an argument it does not know."""


class OpusMissing(ImportError):
    """No libopus on this machine."""


def _candidates() -> Iterator[str]:
    package = Path(av.__file__).parent
    for folder in (package.parent / "av.libs", package / ".dylibs"):
        yield from (str(path) for path in sorted(folder.glob("libopus[-.]*")))
    if found := ctypes.util.find_library("opus"):
        yield found
    yield "libopus.so.0"


def _load() -> ctypes.CDLL:
    for name in _candidates():
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OpusMissing(
        "libopus was not found, neither inside PyAV's wheel nor on the system: "
        "install PyAV as a wheel (pip install --only-binary av av), or the system's package (Debian: libopus0)"
    )


def _bind(lib: ctypes.CDLL) -> ctypes.CDLL:
    ptr, num = ctypes.c_void_p, ctypes.c_int
    signatures: dict[str, tuple[type, list[type]]] = {
        "opus_encoder_create": (ptr, [num, num, num, ctypes.POINTER(num)]),
        "opus_encoder_destroy": (type(None), [ptr]),
        # Variadic: only the fixed arguments may be named, or the call is wrong on arm64 macOS.
        "opus_encoder_ctl": (num, [ptr, num]),
        "opus_encode": (num, [ptr, ptr, num, ptr, num]),
        "opus_decoder_create": (ptr, [num, num, ctypes.POINTER(num)]),
        "opus_decoder_destroy": (type(None), [ptr]),
        "opus_decoder_ctl": (num, [ptr, num]),
        "opus_decode": (num, [ptr, ctypes.c_char_p, num, ptr, num, num]),
        "opus_packet_get_samples_per_frame": (num, [ctypes.c_char_p, num]),
        "opus_packet_has_lbrr": (num, [ctypes.c_char_p, num]),
        "opus_strerror": (ctypes.c_char_p, [num]),
        "opus_get_version_string": (ctypes.c_char_p, []),
    }
    for name, (result, arguments) in signatures.items():
        if (function := getattr(lib, name, None)) is not None:
            function.restype = None if result is type(None) else result
            function.argtypes = arguments
    return lib


_LIB = _bind(_load())
_HAS_LBRR = hasattr(_LIB, "opus_packet_has_lbrr")

VERSION: str = _LIB.opus_get_version_string().decode()


def _checked(code: int, doing: str) -> int:
    if code < 0:
        raise OpusError(f"cannot {doing}: {_LIB.opus_strerror(code).decode()}")
    return code


def _create(call: str, *arguments: int) -> int:
    code = ctypes.c_int()
    handle = getattr(_LIB, call)(*arguments, ctypes.byref(code))
    _checked(code.value, f"make an Opus codec with {arguments}")
    return int(handle)


def recovers(payload: bytes) -> int:
    """48 kHz samples before this packet that its forward error correction restores; 0 if it carries none.

    libopus before 1.5 cannot tell; it is then assumed to, and what comes out is concealment where it does not.
    """
    if not payload or (_HAS_LBRR and _LIB.opus_packet_has_lbrr(payload, len(payload)) <= 0):
        return 0
    return max(0, int(_LIB.opus_packet_get_samples_per_frame(payload, CLOCK_RATE)))


class OpusEncoder:
    """Mono speech to packets, with inband forward error correction. `rate` is one of RATES."""

    def __init__(self, rate: int, bitrate: int = 32_000, complexity: int = 5, expected_loss: int = 10) -> None:
        self._handle = _create("opus_encoder_create", rate, 1, _VOIP)
        self._packet = ctypes.create_string_buffer(_MAX_PACKET_BYTES)
        self._complexity = complexity
        self._silent = False
        self.rate = rate
        self._set(_SET_BITRATE, bitrate)
        self._set(_SET_COMPLEXITY, complexity)
        self._set(_SET_SIGNAL, _SIGNAL_VOICE)
        self._set(_SET_INBAND_FEC, 1)
        self.expect_loss(expected_loss)

    def expect_loss(self, percent: int) -> None:
        """How many packets in a hundred may be lost: the more, the more bits go into error correction."""
        self._set(_SET_PACKET_LOSS, percent)

    def encode(self, pcm: Pcm, silent: bool = False) -> bytes:
        """One packet from 2.5 to 60 ms of int16 samples. Raises OpusError for any other length.

        `silent` says that there is nothing to hear: zeros take libopus longer than speech unless it makes no effort.
        """
        if silent != self._silent:
            self._silent = silent
            self._set(_SET_COMPLEXITY, 0 if silent else self._complexity)
        pcm = np.ascontiguousarray(pcm, np.int16)
        size = _LIB.opus_encode(self._handle, pcm.ctypes.data, len(pcm), self._packet, _MAX_PACKET_BYTES)
        return self._packet.raw[: _checked(size, f"encode {len(pcm)} samples")]

    def _set(self, request: int, value: int) -> None:
        _checked(_LIB.opus_encoder_ctl(self._handle, request, ctypes.c_int(value)), f"set {request} to {value}")

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            _LIB.opus_encoder_destroy(handle)


class OpusDecoder:
    """Packets to mono int16 samples at `rate`, one of RATES, whatever rate they were encoded from."""

    def __init__(self, rate: int) -> None:
        self._handle = _create("opus_decoder_create", rate, 1)
        self._pcm = np.empty(rate * _MAX_PACKET_MS // 1000, np.int16)
        self.rate = rate

    def decode(self, payload: bytes) -> Pcm:
        """The samples of one packet. Raises OpusError if it is corrupt; the decoder stays usable."""
        if not payload:
            raise OpusError("cannot decode: an empty packet")
        return self._decode(payload, len(self._pcm), 0)

    def recover(self, payload: bytes, samples: int) -> Pcm:
        """The `samples` before `payload`, from its error correction. Raises OpusError if it is corrupt."""
        return self._decode(payload, samples, 1)

    def conceal(self, samples: int) -> Pcm:
        """Invent what may have followed. `samples` is a multiple of 2.5 ms, 120 ms at most."""
        return self._decode(None, samples, 0)

    def reset(self) -> None:
        _checked(_LIB.opus_decoder_ctl(self._handle, _RESET), "reset a decoder")

    def _decode(self, payload: bytes | None, samples: int, fec: int) -> Pcm:
        size = len(payload) if payload else 0
        made = _LIB.opus_decode(self._handle, payload, size, self._pcm.ctypes.data, samples, fec)
        return self._pcm[: _checked(made, f"decode {size} bytes")].copy()

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            _LIB.opus_decoder_destroy(handle)
