"""Epochs: above all that was in use, and never so high that no operator could come after."""

from datetime import UTC, datetime

import pytest

from otaflux_operator.engine.policies import seal
from otaflux_operator.epochs import BELIEVED, GREATEST, Epochs
from otaflux_policy.groups import Group

GROUP = Group(namespace="homes", name="canaries")
TOLD = GREATEST - 1


def test_it_is_raised_above_what_servers_tell() -> None:
    epochs = Epochs(5)
    epochs.raise_above(4)
    assert (epochs.current, epochs.floor) == (5, 0)
    epochs.raise_above(BELIEVED)
    assert (epochs.current, epochs.floor) == (BELIEVED + 1, BELIEVED + 1)
    # From there by no more than one at a time.
    epochs.raise_above(BELIEVED + 2)
    assert epochs.current == BELIEVED + 1
    epochs.raise_above(BELIEVED + 1)
    assert epochs.current == BELIEVED + 2


@pytest.mark.parametrize("mitigated", [True, False])
def test_servers_that_lie_do_not_use_up_the_epochs(
    monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    """Else whoever once had a server, or its database, would end all publishing for good."""
    if not mitigated:
        monkeypatch.setattr("otaflux_operator.epochs.BELIEVED", GREATEST)
    epochs = Epochs(5)
    epochs.raise_above(TOLD)
    following = epochs.current + 1
    if mitigated:
        assert seal(GROUP, None, following, datetime.now(UTC)).epoch == 6
    else:
        with pytest.raises(ValueError, match="exceeds"):
            seal(GROUP, None, following, datetime.now(UTC))
