"""The protocol of DashScope's Qwen-Omni-Realtime, translated to ours and back; no transport, no session."""
