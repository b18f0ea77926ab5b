"""The wire protocol: OpenAI Realtime events in and out; no transport, no engine."""
