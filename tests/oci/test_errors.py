"""The tree at the top of `errors` is the tree, and what is exported is what is meant to be."""

import re

import otaflux_oci
from otaflux_oci import OciError, errors


def drawn() -> dict[str, str]:
    """Class to base class, as drawn in the docstring."""
    path: list[str] = []
    bases = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│├└─ ]*)([A-Z][A-Za-z]+)", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        path[depth:] = [match[2]]
        bases[match[2]] = path[depth - 1] if depth else "Exception"
    return bases


def all_errors(kind: type[OciError] = OciError) -> list[type[OciError]]:
    found = [kind]
    for child in kind.__subclasses__():
        if not child.__name__.startswith("_"):
            found += all_errors(child)
    return found


def test_the_tree_is_drawn_as_it_is() -> None:
    assert drawn() == {kind.__name__: kind.__bases__[0].__name__ for kind in all_errors()}


def test_each_has_a_reason_of_its_own() -> None:
    reasons = [kind.reason for kind in all_errors()]
    assert reasons == [kind.__name__ for kind in all_errors()]
    assert all(re.fullmatch(r"[A-Z][A-Za-z]+", reason) for reason in reasons)


def test_internal_errors_pass_for_their_public_class() -> None:
    from otaflux_oci import registries

    for kind in (registries._MethodNotAllowed, registries._RangeNotSatisfiable):
        assert kind.reason == "RegistryError"


def test_the_errors_and_their_retries() -> None:
    retried = {kind.__name__ for kind in all_errors() if kind.retryable}
    assert retried == {"RegistryUnreachable", "RateLimited", "DigestMismatch"}


def test_the_public_surface() -> None:
    exported = set(otaflux_oci.__all__)
    assert exported == {
        name for name in vars(otaflux_oci) if name[0] != "_" and not name.islower()
    } | {"archived_file", "find_file", "firmware_layer", "is_archive", "resolve"}
    assert {kind.__name__ for kind in all_errors()} <= exported
