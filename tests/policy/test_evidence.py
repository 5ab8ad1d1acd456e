"""States follow from facts: each rule by an example, and what holds for any order of facts."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otaflux_policy.attempts import AttemptState
from otaflux_policy.evidence import FailureCode, Standing, Terms, standing
from otaflux_policy.facts import Download, Facts, FirstOffer, ReportedFailure, join_all

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
REPORTS = Terms(device_timeout=timedelta(hours=24), polled=False)
POLLS = replace(REPORTS, polled=True)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


OFFER = Facts(first_offer=FirstOffer(at(0), "canary"), last_offer=at(0), last_poll=at(0))
BEGUN = replace(OFFER, first_byte=at(1), last_request=at(1))
DOWNLOADED = replace(BEGUN, downloads=(Download(at(1), at(2)),))
INSTALLED = replace(DOWNLOADED, install_reported=at(3))


def downloads(*starts: float) -> tuple[Download, ...]:
    return tuple(Download(at(start), at(start + 1)) for start in starts)


def polled(first: float, last: float, *, requested: float = 1) -> Facts:
    download = Download(at(1), at(2), at(first), at(last))
    return replace(DOWNLOADED, downloads=(download,), last_request=at(requested))


@dataclass
class Case:
    facts: Facts
    want: AttemptState | None
    code: str = ""
    terms: Terms = field(default=REPORTS)
    now: float = 30


S = AttemptState
REVERTED, REDOWNLOADING = FailureCode.REVERTED_AFTER_INSTALL, FailureCode.REDOWNLOADING
CASES = {
    "nothing": Case(Facts(), None),
    "an old version alone is no attempt": Case(Facts(other_first=at(0), other_last=at(9)), None),
    "offered": Case(OFFER, S.OFFERED),
    "downloading": Case(BEGUN, S.DOWNLOADING),
    "downloaded": Case(DOWNLOADED, S.DOWNLOADED),
    "installing": Case(INSTALLED, S.INSTALLING),
    "restarted": Case(replace(DOWNLOADED, restart_seen=at(3)), S.INSTALLING),
    # updated
    "reported": Case(replace(INSTALLED, target_first=at(4), target_last=at(4)), S.UPDATED),
    "reported without an offer": Case(Facts(target_first=at(4), target_last=at(4)), S.UPDATED),
    "a second poll after 60 s": Case(polled(2.5, 3), S.UPDATED, terms=POLLS),
    "a second poll too early": Case(polled(2.5, 2.9), S.DOWNLOADED, terms=POLLS),
    "one late poll is not two": Case(polled(9, 9), S.DOWNLOADED, terms=POLLS),
    "polls of one that reports": Case(polled(2.5, 9), S.DOWNLOADED),
    "firmware asked for in between": Case(polled(2.5, 9, requested=5), S.DOWNLOADED, terms=POLLS),
    # failed
    "reported failure": Case(
        replace(INSTALLED, failure=ReportedFailure(at(5), "E_FLASH")), S.FAILED, "E_FLASH"
    ),
    "the old version after an install": Case(
        replace(INSTALLED, other_first=at(0), other_last=at(5)), S.FAILED, REVERTED
    ),
    "the old version before an install": Case(
        replace(INSTALLED, other_first=at(0), other_last=at(2)), S.INSTALLING
    ),
    "the old version after a restart": Case(
        replace(DOWNLOADED, restart_seen=at(3), other_last=at(5)), S.FAILED, REVERTED
    ),
    "the old version within the grace": Case(
        replace(DOWNLOADED, other_first=at(0), other_last=at(61)), S.DOWNLOADED, now=70
    ),
    "the old version after the grace": Case(
        replace(DOWNLOADED, other_first=at(0), other_last=at(62)), S.FAILED, REVERTED, now=70
    ),
    "updated, then the old version again": Case(
        replace(INSTALLED, target_first=at(4), target_last=at(5), other_last=at(6)),
        S.FAILED,
        REVERTED,
    ),
    "never offered, updated and old again": Case(
        Facts(target_first=at(4), target_last=at(5), other_last=at(6)), None
    ),
    "three downloads": Case(replace(BEGUN, downloads=downloads(1, 5, 9)), S.FAILED, REDOWNLOADING),
    "two downloads": Case(replace(BEGUN, downloads=downloads(1, 5)), S.DOWNLOADED),
    "the target heals a failure": Case(
        replace(
            INSTALLED,
            failure=ReportedFailure(at(5), "E_FLASH"),
            target_first=at(6),
            target_last=at(6),
        ),
        S.UPDATED,
    ),
    "the target heals three downloads": Case(
        replace(BEGUN, downloads=downloads(1, 5, 9), target_first=at(12), target_last=at(12)),
        S.UPDATED,
    ),
    "a failure after the target holds": Case(
        replace(
            INSTALLED,
            failure=ReportedFailure(at(9), "E_BOOT"),
            target_first=at(6),
            target_last=at(6),
        ),
        S.FAILED,
        "E_BOOT",
    ),
    "at one instant the target counts, not the failure": Case(
        replace(INSTALLED, failure=ReportedFailure(at(6), "E"), target_last=at(6)), S.UPDATED
    ),
    "at one instant the target counts, not the old version": Case(
        replace(INSTALLED, target_last=at(6), other_last=at(6)), S.UPDATED
    ),
    # timed out
    "a deed at the deadline is none after it": Case(
        replace(BEGUN, last_request=at(1441)), S.TIMED_OUT, now=1441
    ),
    "a minute before the timeout": Case(BEGUN, S.DOWNLOADING, now=24 * 60),
    "timed out": Case(BEGUN, S.TIMED_OUT, now=24 * 60 + 1),
    "timed out while installing": Case(INSTALLED, S.TIMED_OUT, now=24 * 60 + 1),
    "a poll does not undo it": Case(
        replace(BEGUN, last_poll=at(2000), other_last=at(2000)), S.TIMED_OUT, now=2001
    ),
    "a newer deed does": Case(replace(BEGUN, last_request=at(2000)), S.DOWNLOADING, now=2001),
    "the target does": Case(
        replace(BEGUN, target_first=at(2000), target_last=at(2000)), S.UPDATED, now=2001
    ),
    # withdrawn, not requested
    "ended before the first byte": Case(replace(OFFER, offer_ended=at(5)), S.WITHDRAWN),
    "ended as it began": Case(replace(OFFER, offer_ended=at(0)), S.WITHDRAWN),
    "ended after the first byte": Case(replace(BEGUN, offer_ended=at(5)), S.DOWNLOADING),
    "offered anew": Case(replace(OFFER, offer_ended=at(5), last_offer=at(7)), S.OFFERED),
    "nobody took it up": Case(OFFER, S.WITHDRAWN, now=24 * 60),
    "polled again after ten minutes": Case(
        replace(OFFER, last_poll=at(10)), S.NOT_REQUESTED, terms=POLLS
    ),
    "polled again sooner": Case(replace(OFFER, last_poll=at(9)), S.OFFERED, terms=POLLS),
    "polled again, but it reports": Case(replace(OFFER, last_poll=at(10)), S.OFFERED),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_rules(case: Case) -> None:
    found = standing(case.facts, case.terms, at(case.now))
    assert (found and found.state, found.code if found else "") == (case.want, case.code)


def test_who_went_on_past_the_timeout_has_it_once_more() -> None:
    late = replace(BEGUN, last_request=at(2000))
    ends = at(2000 + 24 * 60)
    assert standing(late, REPORTS, at(2001)) == Standing(AttemptState.DOWNLOADING, until=ends)
    assert standing(late, REPORTS, ends) == Standing(AttemptState.TIMED_OUT)


def test_no_more_downloads_are_kept_than_count() -> None:
    many = join_all(Facts(downloads=downloads(start)) for start in (9, 1, 5, 3))
    assert many.downloads == downloads(1, 3, 5)


def test_firsts_move_earlier_and_lasts_later() -> None:
    early: dict[str, Any] = dict.fromkeys(TIMES, at(1))
    late: dict[str, Any] = dict.fromkeys(TIMES, at(2))
    both = Facts(**early).join(Facts(**late))
    for name in TIMES:
        expected = at(1) if name in FIRSTS else at(2)
        assert getattr(both, name) == expected, name


FIRSTS = ("first_byte", "install_reported", "restart_seen", "target_first", "other_first")
LASTS = ("last_offer", "offer_ended", "last_request", "target_last", "other_last", "last_poll")
TIMES = (*FIRSTS, *LASTS)

times = st.integers(0, 3000).map(at)
optional = st.none() | times
polls = st.builds(
    Download,
    started=st.integers(0, 5).map(at),
    completed=times,
    first_poll=optional,
    last_poll=optional,
)
facts = st.builds(
    Facts,
    first_offer=st.none() | st.builds(FirstOffer, at=times, ring=st.sampled_from(("a", "b"))),
    last_offer=optional,
    offer_ended=optional,
    first_byte=optional,
    last_request=optional,
    downloads=st.lists(polls, max_size=3, unique_by=lambda download: download.started).map(
        lambda found: tuple(sorted(found, key=lambda download: download.started))
    ),
    install_reported=optional,
    restart_seen=optional,
    target_first=optional,
    target_last=optional,
    other_first=optional,
    other_last=optional,
    failure=st.none()
    | st.builds(ReportedFailure, at=times, code=st.sampled_from(("E_FLASH", "E_BOOT"))),
    last_poll=optional,
)
terms = st.sampled_from((REPORTS, POLLS))


@given(st.lists(facts, max_size=5), st.randoms(use_true_random=False), terms, times)
def test_any_order_duplication_and_split_gives_the_same(
    parts: list[Facts], random: Random, terms: Terms, now: datetime
) -> None:
    shuffled = [*parts, *parts]
    random.shuffle(shuffled)
    cut = len(shuffled) // 2
    one, other = join_all(shuffled[:cut]), join_all(shuffled[cut:])
    assert join_all(parts) == one.join(other) == other.join(one)
    assert standing(join_all(parts), terms, now) == standing(one.join(other), terms, now)


@given(facts, facts, facts)
def test_joining_is_associative_and_nothing_joins_to_itself(a: Facts, b: Facts, c: Facts) -> None:
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.join(a) == a == a.join(Facts())


@given(facts, terms, times, st.integers(0, 5000))
def test_until_is_the_next_change(facts: Facts, terms: Terms, now: datetime, ahead: int) -> None:
    found = standing(facts, terms, now)
    later = now + timedelta(minutes=ahead)
    if found is None or found.until is None or later < found.until:
        assert standing(facts, terms, later) == found
    if found is not None and found.until is not None:
        assert found.until > now


@given(facts, terms, times)
def test_reporting_the_target_last_of_all_is_updated(
    facts: Facts, terms: Terms, now: datetime
) -> None:
    healed = facts.join(Facts(target_first=at(9000), target_last=at(9000)))
    assert standing(healed, terms, now) == Standing(AttemptState.UPDATED)
