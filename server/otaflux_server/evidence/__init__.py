"""The evidence store: devices and facts in SQLite or PostgreSQL."""
