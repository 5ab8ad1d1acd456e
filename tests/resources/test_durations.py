"""Durations in Go's notation."""

import pytest

from otaflux_operator.resources import Duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("45s", 45),
        ("5m", 300),
        ("90m", 5400),
        ("1h30m", 5400),
        ("1h0m5s", 3605),
        ("168h", 604800),
        ("2h10s", 7210),
        ("007m", 420),
    ],
)
def test_length_in_seconds(text: str, seconds: int) -> None:
    assert Duration(text).seconds == seconds


@pytest.mark.parametrize("text", ["", "5", "1d", "1.5h", "-1h", "1h ", "1h\n", "30s1h", "٣h"])
def test_what_is_no_duration_has_no_length(text: str) -> None:
    assert not Duration(text).valid
    with pytest.raises(ValueError, match="1h30m"):
        _ = Duration(text).seconds
