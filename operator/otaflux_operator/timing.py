"""How often, how many, how long."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, and numbers of workers."""

    workers: int = 16
    """Objects that are reconciled at a time."""

    resolve_workers: int = 16
    """Registries that are asked at a time; a slow one holds up nobody but these."""

    ask_workers: int = 8
    """Questions to the servers at a time."""

    retry_first: float = 1.0
    """First pause after a registry failed; doubled each time, with jitter."""

    retry_most: float = 300.0

    error_first: float = 0.2
    """First pause after a reconciliation failed; doubled each time, with jitter."""

    error_most: float = 30.0

    ask_first: float = 0.02
    """First pause before servers are asked whether they are done; grows to `ask_most`."""

    ask_most: float = 2.0

    ask_steady: float = 30.0
    """How often servers are asked where nothing is waited for."""

    status_every: float = 10.0
    """Least distance of status writes that change neither phase nor a condition."""

    sweep_every: float = 60.0
    """How often published objects are compared with those that exist."""
