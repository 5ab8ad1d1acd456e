"""Attempts of devices, as people see them: state and facts."""

from datetime import datetime

from otaflux_policy.attempts import AttemptRef, AttemptState
from otaflux_policy.evidence import Standing
from otaflux_policy.facts import Facts
from otaflux_policy.models import ContractModel


class DownloadView(ContractModel):
    """A complete download, and the polls since that were answered with the release."""

    started: datetime
    completed: datetime
    first_poll: datetime | None
    last_poll: datetime | None


class FactsView(ContractModel):
    """All that is known of an attempt; None: nothing. `ring` is that of the first offer.

    `target_…`: the device reported the release, `other_…`: another version.
    """

    first_offer: datetime | None
    ring: str | None
    last_offer: datetime | None
    offer_ended: datetime | None
    first_byte: datetime | None
    last_request: datetime | None
    downloads: tuple[DownloadView, ...]
    install_reported: datetime | None
    restart_seen: datetime | None
    target_first: datetime | None
    target_last: datetime | None
    other_first: datetime | None
    other_last: datetime | None
    failed: datetime | None
    failure_code: str | None
    last_poll: datetime | None


class AttemptView(ContractModel):
    """A device's attempt at the release `digest` in one run.

    `state` is None where it is judged by no policy in use, or nothing was offered or fetched.
    `code`: why it failed; `until`: when time alone changes the state.
    """

    rollout: str
    run: int
    digest: str
    state: AttemptState | None
    code: str
    until: datetime | None
    facts: FactsView


def attempt_view(
    rollout: str, ref: AttemptRef, facts: Facts, standing: Standing | None
) -> AttemptView:
    """The attempt with its facts; `standing` as it was judged."""
    return AttemptView(
        rollout=rollout,
        run=ref.run,
        digest=ref.digest,
        state=standing.state if standing is not None else None,
        code=standing.code if standing is not None else "",
        until=standing.until if standing is not None else None,
        facts=_facts_view(facts),
    )


def _facts_view(facts: Facts) -> FactsView:
    return FactsView(
        first_offer=facts.first_offer.at if facts.first_offer is not None else None,
        ring=facts.first_offer.ring if facts.first_offer is not None else None,
        last_offer=facts.last_offer,
        offer_ended=facts.offer_ended,
        first_byte=facts.first_byte,
        last_request=facts.last_request,
        downloads=tuple(
            DownloadView(
                started=download.started,
                completed=download.completed,
                first_poll=download.first_poll,
                last_poll=download.last_poll,
            )
            for download in facts.downloads
        ),
        install_reported=facts.install_reported,
        restart_seen=facts.restart_seen,
        target_first=facts.target_first,
        target_last=facts.target_last,
        other_first=facts.other_first,
        other_last=facts.other_last,
        failed=facts.failure.at if facts.failure is not None else None,
        failure_code=facts.failure.code if facts.failure is not None else None,
        last_poll=facts.last_poll,
    )
