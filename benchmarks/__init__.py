"""`make bench`: what OtaFlux is measured to do on this machine. Never part of the tests."""
