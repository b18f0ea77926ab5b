"""Engines that understand and speak, the seam they share, and the process that hosts them."""
