"""Scripted conversations out of recorded speech, played to a running server, and what is measured on them."""
