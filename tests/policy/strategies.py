"""Hypothesis strategies for contract objects: small alphabets, so that things collide."""

from datetime import UTC, datetime
from typing import TypeVar

from hypothesis import strategies as st

from otaflux_policy.attempts import Attempt, AttemptState, Evidence
from otaflux_policy.contract import (
    Archive,
    Artifact,
    Compatibility,
    Downgrade,
    Policy,
    Release,
    ReleaseRun,
    Ring,
    State,
)
from otaflux_policy.devices import Device
from otaflux_policy.groups import Group
from otaflux_policy.selectors import DeviceSelector, LabelRequirement, Operator
from otaflux_policy.windows import Window

Built = TypeVar("Built")


def built(kind: type[Built], **fields: st.SearchStrategy[object]) -> st.SearchStrategy[Built]:
    """`kind` from drawn fields; `st.builds` would add the aliases that it infers as required."""
    return st.fixed_dictionaries(fields).map(lambda drawn: kind(**drawn))


NAMESPACES = ("home", "office")
DEVICES = ("kitchen-1", "kitchen-2", "lab-1", "aa:bb:cc:dd:ee:ff", "K")
VERSIONS = ("1.2.0", "1.3.2", "1.4.0", "1.4.0-rc.1", "v1.4.0", "main-0123456789ab", "garbage")
KEYS = ("ring", "site")
VALUES = ("canary", "berlin", "x")
MODELS = ("thermostat-v1", "thermostat-v2")
DIGESTS = tuple(f"sha256:{i:064x}" for i in range(1, 6))
ROLLOUTS = ("alpha", "beta", "gamma")

labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2)
globs = st.sampled_from((*DEVICES, "kitchen-*", "lab-?", "*", "k*", "?"))
requirements = built(
    LabelRequirement,
    key=st.sampled_from(KEYS),
    operator=st.sampled_from(Operator),
    values=st.lists(st.sampled_from(VALUES), max_size=2).map(tuple),
)
selectors = built(
    DeviceSelector,
    match_labels=labels,
    match_expressions=st.lists(requirements, max_size=2).map(tuple),
    names=st.lists(globs, max_size=2).map(tuple),
)
artifacts = built(
    Artifact,
    digest=st.sampled_from(DIGESTS),
    size=st.integers(0, 2**40),
    media_type=st.just("application/octet-stream"),
    repository=st.just("registry.example.com/firmware/thermostat"),
    credentials=st.none() | st.just("sha256-abc"),
    archive=st.none()
    | built(
        Archive,
        digest=st.sampled_from(DIGESTS),
        size=st.integers(0, 2**40),
        media_type=st.just("application/vnd.oci.image.layer.v1.tar+gzip"),
        path=st.sampled_from(("app.bin", "fw/app.bin")),
    ),
)
releases = built(
    Release,
    version=st.sampled_from(VERSIONS),
    digest=st.sampled_from(DIGESTS),
    artifacts=artifacts.map(lambda artifact: (artifact,)),
)
rings = built(
    Ring,
    name=st.sampled_from(("canary", "early", "fleet")),
    selector=st.none() | selectors,
    percent=st.none() | st.integers(1, 100),
    open=st.booleans(),
    max_concurrent=st.none() | st.integers(1, 3),
)
windows = built(
    Window,
    schedule=st.sampled_from(("0 2 * * *", "30 2 * * 0", "*/15 * * * *")),
    duration=st.sampled_from((600, 3600, 4 * 3600)),
    time_zone=st.sampled_from(("UTC", "Europe/Berlin", "America/New_York")),
)
times = st.datetimes(
    min_value=datetime(2026, 1, 1),
    max_value=datetime(2027, 1, 1),
    timezones=st.just(UTC),
)
policies = built(
    Policy,
    namespace=st.sampled_from(NAMESPACES),
    name=st.sampled_from(ROLLOUTS),
    created_at=times,
    priority=st.integers(-1, 1),
    device_selector=st.just(DeviceSelector()) | selectors,
    compatibility=built(
        Compatibility,
        models=st.lists(st.sampled_from(MODELS), max_size=1).map(tuple),
        min_version=st.none() | st.sampled_from(VERSIONS),
    ),
    run=st.integers(0, 5),
    target=st.none() | releases,
    stable=st.none() | releases,
    candidate=st.none() | releases,
    rings=st.lists(rings, max_size=3, unique_by=lambda ring: ring.name).map(tuple),
    state=st.sampled_from(State),
    rolling_back=st.booleans(),
    rollback_from=st.lists(
        built(
            ReleaseRun,
            version=st.sampled_from(VERSIONS),
            digest=st.sampled_from(DIGESTS),
            run=st.integers(0, 5),
        ),
        max_size=2,
    ).map(tuple),
    downgrade=st.sampled_from(Downgrade),
    windows=st.lists(windows, max_size=1).map(tuple),
    device_timeout=st.just(86400),
    active_within=st.just(604800),
)
rollouts = st.lists(policies, max_size=4, unique_by=lambda policy: (policy.namespace, policy.name))
groups = st.lists(
    built(
        Group,
        namespace=st.just("home"),
        name=st.sampled_from(("a", "b", "c")),
        names=st.lists(globs, max_size=3).map(tuple),
        labels=labels,
        model=st.none() | st.sampled_from(MODELS),
    ),
    max_size=3,
    unique_by=lambda group: group.name,
)
devices = st.builds(
    Device,
    namespace=st.sampled_from(NAMESPACES),
    id=st.sampled_from(DEVICES),
    model=st.none() | st.sampled_from(MODELS),
    version=st.none() | st.sampled_from(VERSIONS),
    digest=st.none() | st.sampled_from(DIGESTS),
)
evidence = st.builds(
    Evidence,
    stored=st.frozensets(st.sampled_from(DIGESTS)),
    attempts=st.dictionaries(
        st.sampled_from(ROLLOUTS),
        st.builds(Attempt, state=st.sampled_from(AttemptState), touched=st.booleans()),
    ),
    slots=st.dictionaries(
        st.tuples(st.sampled_from(ROLLOUTS), st.sampled_from(("canary", "early", "fleet"))),
        st.integers(0, 1),
    ),
    tripped=st.frozensets(st.sampled_from(ROLLOUTS)),
)
