"""Which of Hugging Face's steps each of the engine's is held against, and what was wanted of it, by names of rows."""

from __future__ import annotations

REFERENCES = {
    "first_packet_voice": "hf_first_packet_10s",
    "thinker_step": "hf_thinker_token",
    "talker_frame": "hf_talker_frame_with_predictor_and_sampling",
    "code2wav_frame": "hf_code2wav_one_frame",
}
FRAME_REFERENCE = "hf_talker_frame_with_predictor_and_sampling"
"""Of `reply_rtf`: its time for a frame, over the frame's 80 ms."""

WANTED = {
    "first_packet_voice": 40.0,
    "first_packet_camera": 55.0,
    "thinker_step": 2.8,
    "talker_frame": 4.0,
    "code2wav_frame": 0.8,
    "reply_rtf": 0.08,
    "speculated_release": 3.0,
    "start": 60.0,
    "memory_8_sessions_of_4k_tokens": 80.0,
}
"""Of one H200, at most: the p50, or the value, in the row's unit."""
WANTED_P95 = {8: 80.0, 32: 150.0, 64: 211.0}
"""First packet with so many talkers, ms, at most."""
