"""What a benchmark and tests of echo need: a room, and trials in it."""
