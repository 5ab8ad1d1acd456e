"""What decides over the devices of a namespace."""

from dataclasses import dataclass

from otaflux_policy.contract import Policy
from otaflux_policy.groups import Groups


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides over the devices of one namespace; `generation` differs after each change.

    `held`: nothing may be offered, because something that was published here could never be read,
    and so nobody knows whom it would have kept back; or because nothing was read at all yet.
    """

    generation: int
    policies: tuple[Policy, ...]
    groups: Groups
    held: bool = False


NO_RULES = Rules(0, (), Groups())
NOTHING_READ = Rules(-1, (), Groups(), held=True)
