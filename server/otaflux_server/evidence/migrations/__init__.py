"""The schema's migrations, run by `otaflux_server.evidence.databases.migrate`."""
