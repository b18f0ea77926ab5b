"""Sound and pictures: PCM, Opus, loss repair, voice activity, end of turn, camera frame sampling."""
