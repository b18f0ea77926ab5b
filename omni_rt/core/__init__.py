"""The conversation's rules, pure and synchronous: no sockets, no GPU, no wall clock; time comes in as audio."""
