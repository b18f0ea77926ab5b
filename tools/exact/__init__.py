"""Checks of the Qwen3-Omni engine against Hugging Face with the same random weights; each part gives its lines."""
