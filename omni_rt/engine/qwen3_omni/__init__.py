"""Qwen3-Omni (Thinker -> Talker -> Code2Wav) as a streaming engine in PyTorch; needs the `qwen` extra."""
