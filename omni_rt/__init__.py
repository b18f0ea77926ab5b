"""A self-hosted voice-and-video assistant behind the OpenAI Realtime protocol."""

__version__ = "0.1.0"
