"""Random facts, and attempts to hang them on."""

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from otaflux_policy.attempts import IN_FLIGHT, AttemptState
from otaflux_policy.evidence import Terms, standing
from otaflux_policy.facts import Download, Facts, FirstOffer, ReportedFailure
from otaflux_server.evidence.records import AttemptKey, DeviceFacts, Pin, Running, Said

DIGEST = "sha256:" + "0" * 64


def at(seconds: float) -> datetime:
    return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def attempt(device: int | str, *, rollout: str = "thermostat", run: int = 1) -> AttemptKey:
    return AttemptKey("default", rollout, run, DIGEST, f"device-{device}")


TERMS = Terms(device_timeout=timedelta(hours=24), polled=False)


def judge(facts: Facts) -> AttemptState | None:
    """How far the attempt is at `at(100)`."""
    known = standing(facts, TERMS, at(100))
    return None if known is None else known.state


def in_flight(facts: Facts) -> bool:
    return judge(facts) in IN_FLIGHT


# Few values, so that the same one is often met twice; microseconds and all.
times = st.integers(0, 7).map(lambda n: at(n * 0.999999))
maybe = st.none() | times
words = st.sampled_from(["", "canary", "Early", "é", "\uffff", "\U0001d11e", "z"])
downloads = st.builds(Download, times, times, maybe, maybe)
facts = st.builds(
    Facts,
    first_offer=st.none() | st.builds(FirstOffer, times, words),
    failure=st.none() | st.builds(ReportedFailure, times, words),
    downloads=st.lists(downloads, max_size=4, unique_by=lambda d: d.started).map(
        # As a replica holds them.
        lambda some: Facts().join(Facts(downloads=tuple(some))).downloads
    ),
    last_offer=maybe,
    offer_ended=maybe,
    first_byte=maybe,
    last_request=maybe,
    install_reported=maybe,
    restart_seen=maybe,
    target_first=maybe,
    target_last=maybe,
    other_first=maybe,
    other_last=maybe,
    last_poll=maybe,
)
device_facts = st.builds(
    DeviceFacts,
    first_seen=times,
    last_seen=times,
    first_poll=maybe,
    last_poll=maybe,
    said=st.none() | st.builds(Said, times, words, words),
    reported_first=maybe,
    running=st.none() | st.builds(Running, times, words),
    pin=st.none() | st.builds(Pin, times, words, times),
)
