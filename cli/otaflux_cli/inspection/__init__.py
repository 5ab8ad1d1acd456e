"""Looking into a running update server, over its internal API."""
