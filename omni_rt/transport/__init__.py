"""WebRTC and WebSocket carriers of tracks and events; they know nothing of turns."""
