"""Simulated devices: real clients of the server's protocols over real sockets."""
