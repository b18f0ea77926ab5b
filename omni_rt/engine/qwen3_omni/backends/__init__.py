"""What attends over paged caches: one class a library, all with the same result."""
