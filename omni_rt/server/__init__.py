"""The HTTP application: page, calls, WebSocket, health, metrics, limits."""
