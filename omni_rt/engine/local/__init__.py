"""The embedded engine: small real models for speech, chat, voice and sight on two CPU cores."""
