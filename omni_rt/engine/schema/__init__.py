"""JSON schemas of tools, read as far as a grammar can enforce them, and written as one does."""
