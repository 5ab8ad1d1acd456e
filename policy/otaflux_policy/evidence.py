"""How far an attempt is: a pure function of its facts and the time."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from otaflux_policy.attempts import AttemptState
from otaflux_policy.facts import MAX_DOWNLOADS, Download, Facts


class FailureCode(StrEnum):
    """Failures that are concluded; devices report codes of their own."""

    REVERTED_AFTER_INSTALL = "RevertedAfterInstall"
    REDOWNLOADING = "Redownloading"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """By which spans an attempt is judged.

    `polled`: the device never reports what it runs, or is not to be believed, so that polls after
    a complete download stand for a report. `device_timeout` counts from the first byte, from
    the claim of an offer that nobody takes up, and once more from the last deed of a device that
    went on past it: nothing is under way for ever.
    """

    device_timeout: timedelta
    polled: bool
    install_grace: timedelta = timedelta(hours=1)
    poll_gap: timedelta = timedelta(seconds=60)
    request_within: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of an attempt; `code` says why it failed.

    `until` is when time alone may change it (None: only another fact does).
    """

    state: AttemptState
    code: str = ""
    until: datetime | None = None


def standing(facts: Facts, terms: Terms, now: datetime) -> Standing | None:
    """How far the attempt is at `now`; None where there is none. Total: it never raises.

    A later report of the target heals any failure; a later report of another version takes back
    that the device was updated.
    """
    if _failure_holds(facts):
        assert facts.failure is not None
        return Standing(AttemptState.FAILED, facts.failure.code)
    if _runs_target(facts):
        return Standing(AttemptState.UPDATED)
    if _reverted(facts, terms):
        return Standing(AttemptState.FAILED, FailureCode.REVERTED_AFTER_INSTALL)
    if len(facts.downloads) >= MAX_DOWNLOADS:
        return Standing(AttemptState.FAILED, FailureCode.REDOWNLOADING)
    if terms.polled and any(_confirmed(facts, download, terms) for download in facts.downloads):
        return Standing(AttemptState.UPDATED)
    if facts.first_byte is None and not facts.downloads and not _installing(facts):
        return _offered(facts, terms, now)
    return _begun(facts, terms, now)


def _failure_holds(facts: Facts) -> bool:
    if facts.failure is None:
        return False
    return facts.target_last is None or facts.failure.at > facts.target_last


def _runs_target(facts: Facts) -> bool:
    if facts.target_last is None:
        return False
    return facts.other_last is None or facts.target_last >= facts.other_last


def _installing(facts: Facts) -> bool:
    return facts.install_reported is not None or facts.restart_seen is not None


def _reverted(facts: Facts, terms: Terms) -> bool:
    """Whether another version came back after an install, or stayed too long after a download."""
    other = facts.other_last
    if other is None:
        return False
    installs = [facts.install_reported, facts.restart_seen]
    if facts.first_byte is not None or facts.downloads:
        installs.append(facts.target_first)
    for installed in installs:
        if installed is not None and other > installed:
            return True
    if not facts.downloads:
        return False
    completed = max(download.completed for download in facts.downloads)
    return other >= completed + terms.install_grace


def _confirmed(facts: Facts, download: Download, terms: Terms) -> bool:
    """Whether two polls after the download, the second late enough, stand for a report."""
    first, last = download.first_poll, download.last_poll
    if first is None or last is None or last <= first:
        return False
    asked_again = facts.last_request is not None and facts.last_request > first
    return last >= download.completed + terms.poll_gap and not asked_again


def _offered(facts: Facts, terms: Terms, now: datetime) -> Standing | None:
    offered = facts.last_offer
    if offered is None:
        return None
    ends = offered + terms.device_timeout
    ended = facts.offer_ended is not None and facts.offer_ended >= offered
    if ended or now >= ends:
        return Standing(AttemptState.WITHDRAWN)
    polled = facts.last_poll
    if terms.polled and polled is not None and polled >= offered + terms.request_within:
        return Standing(AttemptState.NOT_REQUESTED, until=ends)
    return Standing(AttemptState.OFFERED, until=ends)


def _begun(facts: Facts, terms: Terms, now: datetime) -> Standing:
    deadline = facts.first_byte + terms.device_timeout if facts.first_byte is not None else None
    newest = max(_deeds(facts), default=None)
    if newest is not None and (deadline is None or newest > deadline):
        deadline = newest + terms.device_timeout
    if deadline is not None and now >= deadline:
        return Standing(AttemptState.TIMED_OUT)
    if _installing(facts):
        return Standing(AttemptState.INSTALLING, until=deadline)
    if facts.downloads:
        return Standing(AttemptState.DOWNLOADED, until=deadline)
    return Standing(AttemptState.DOWNLOADING, until=deadline)


def _deeds(facts: Facts) -> list[datetime]:
    """When the device did something about the release; polls and what they carry are no deeds."""
    deeds = [facts.last_request, facts.install_reported, facts.restart_seen, facts.target_last]
    deeds += [download.completed for download in facts.downloads]
    return [deed for deed in deeds if deed is not None]
