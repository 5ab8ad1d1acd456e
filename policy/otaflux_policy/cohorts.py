"""Where a device falls in the hash space of one release: stable, salted, spread evenly.

A growing percentage never takes a device out of a ring, a new release draws new canaries, and
an object that is deleted and created again draws the same ones. Vectors: `docs/cohorts.md`.
"""

from hashlib import sha256

BUCKETS = 10_000


def bucket(namespace: str, rollout: str, digest: str, device: str) -> int:
    """The device's bucket, 0 … 9 999, for the release with the manifest digest `digest`."""
    key = f"{namespace}/{rollout}\0{digest}\0{device}".encode()
    return int.from_bytes(sha256(key).digest()[:8], "big") % BUCKETS


def within(percent: int, bucket: int) -> bool:
    """Whether `bucket` lies in the first `percent` (1–100) of the hash space."""
    return bucket < percent * (BUCKETS // 100)
