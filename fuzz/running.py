"""`python -m fuzz.running TARGET [libFuzzer options and folders]`: one target under atheris."""

import sys

import atheris  # type: ignore[import-untyped]  # ships no type information
import structlog

with atheris.instrument_imports(
    include=["fuzz", "otaflux_oci", "otaflux_policy", "otaflux_server"]
):
    from fuzz.targets import TARGETS


def main() -> None:
    """Runs until libFuzzer's options end it; exit status 0 where it found nothing."""
    name, *options = sys.argv[1:]
    # Refusals are what a fuzzer lives on: they are not worth a line each.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    atheris.Setup([f"fuzz {name}", *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
