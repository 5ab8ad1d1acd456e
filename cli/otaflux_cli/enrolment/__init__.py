"""`otaflux device`: tokens and certificates by which devices prove who they are."""
