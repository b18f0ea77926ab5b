"""Clients of the server: a WebRTC caller that plays a file as the microphone, and the benchmark built on it."""
