from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from omni_rt.engine.api import Pcm
from omni_rt.media.opus import RATES, OpusDecoder, OpusEncoder, OpusError, recovers
from tests.support.voices import rms, voiced


def packets(rate: int, seconds: float = 1.0, frame_ms: int = 20, expected_loss: int = 20) -> list[bytes]:
    encoder = OpusEncoder(rate, expected_loss=expected_loss)
    pcm, n = voiced(seconds, rate), rate * frame_ms // 1000
    return [encoder.encode(pcm[i : i + n]) for i in range(0, len(pcm) - n + 1, n)]


def alignment(a: Pcm, b: Pcm) -> float:
    """How much of `a` is in `b` at the best shift, 0 to 1."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    return float(np.abs(np.correlate(a64, b64, "full")).max() / np.sqrt((a64**2).sum() * (b64**2).sum()))


@pytest.mark.parametrize("rate_in", [16_000, 24_000, 48_000])
@pytest.mark.parametrize("rate_out", [16_000, 24_000, 48_000])
def test_what_goes_in_comes_out_at_the_rate_asked_for(rate_in: int, rate_out: int) -> None:
    decoder = OpusDecoder(rate_out)
    out = np.concatenate([decoder.decode(packet) for packet in packets(rate_in)])
    assert len(out) == rate_out
    assert alignment(out, voiced(1.0, rate_out)) > 0.8


def test_a_lost_packet_is_restored_better_than_it_is_invented() -> None:
    stream = packets(24_000)
    clean = OpusDecoder(16_000)
    whole = [clean.decode(packet) for packet in stream]
    restored, invented = [], []
    for lost in range(10, 40):
        if not recovers(stream[lost + 1]):
            continue
        for errors, fec in ((restored, True), (invented, False)):
            decoder = OpusDecoder(16_000)
            for packet in stream[:lost]:
                decoder.decode(packet)
            made = decoder.recover(stream[lost + 1], 320) if fec else decoder.conceal(320)
            errors.append(rms((made - whole[lost]).astype(np.int16)))
    assert len(restored) > 20
    assert np.mean(restored) < 0.5 * np.mean(invented)


def test_error_correction_reaches_back_one_frame() -> None:
    assert max(recovers(packet) for packet in packets(16_000)) == 960
    assert {recovers(b""), recovers(b"\xff\xff\xff")} == {0}


def test_a_corrupt_packet_is_refused_and_the_decoder_lives_on() -> None:
    stream = packets(16_000)
    decoder = OpusDecoder(16_000)
    decoder.decode(stream[0])
    for broken in (b"", b"\xff\xff\xff", b"\x03\xff"):
        with pytest.raises(OpusError, match="decode"):
            decoder.decode(broken)
    assert len(decoder.decode(stream[1])) == 320


def test_lengths_and_rates_opus_does_not_know_are_refused() -> None:
    with pytest.raises(OpusError, match="479 samples"):
        OpusEncoder(24_000).encode(np.zeros(479, np.int16))
    with pytest.raises(OpusError):
        OpusDecoder(22_050)
    assert 22_050 not in RATES


def test_without_libopus_the_error_says_what_to_install() -> None:
    code = (
        "import av, ctypes, ctypes.util\n"
        "def refuse(*a, **k): raise OSError\n"
        "ctypes.CDLL = refuse\n"
        "ctypes.util.find_library = lambda name: None\n"
        "import omni_rt.media.opus\n"
    )
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert died.returncode == 1
    assert "libopus was not found" in died.stderr
    assert "pip install" in died.stderr
