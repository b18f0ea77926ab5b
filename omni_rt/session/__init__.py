"""One person's conversation: joins hearing, core, engine and transport."""
