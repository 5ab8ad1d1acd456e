"""TLS of a port: what certificates and revocation lists say, and how they are replaced in use.

A `TlsPort` holds a `Generation`: all that its files said at one time. Each connection begins on
the one in use, with an SSL context of its own, so that no session outlives it; and at each request
the chain that the client showed is held against the one in use then.
"""
