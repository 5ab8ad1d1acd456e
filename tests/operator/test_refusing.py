"""What the spec asks for and is not done: the current release continues, a person is told."""

from otaflux_policy.contract import Release
from otaflux_policy.windows import is_open
from tests.operator.worlds import REPOSITORY, World, digest, found


def version(release: Release | None) -> str | None:
    return release.version if release is not None else None


def test_a_version_that_was_released_with_other_content_is_refused() -> None:
    world = World()
    world.release("1.0.0")
    world.resolves(found("1.0.0", content="rebuilt"))
    world.settle()
    assert version(world.policy.target) == "1.0.0"
    assert world.policy.candidate is None
    assert world.reason("ArtifactResolved") == "False/VersionDigestChanged"
    assert world.reason("Stalled") == "True/VersionDigestChanged"
    assert digest("rebuilt") in world.status.message
    world.release("1.0.1", content="rebuilt")
    assert world.reason("Completed") == "True/Completed"


def test_a_version_of_the_history_is_refused_too() -> None:
    world = World(rings=[{"name": "fleet"}])
    world.release("1.0.0")
    world.release("1.1.0")
    world.release("1.0.0", content="rebuilt")
    assert world.reason("ArtifactResolved") == "False/VersionDigestChanged"
    assert version(world.policy.target) == "1.1.0"


def test_an_older_release_needs_downgrade_allow() -> None:
    world = World()
    world.release("1.1.0")
    world.release("1.0.0")
    assert version(world.policy.target) == "1.1.0"
    assert world.reason("Stalled") == "True/DowngradeForbidden"
    assert "downgrade: Allow" in world.status.message


def test_a_range_never_moves_down() -> None:
    world = World(artifact={"repository": REPOSITORY, "semver": ">=1.0.0"})
    world.resolves(found("1.1.0", by_range=True))
    world.settle()
    world.resolves(found("1.0.0", by_range=True))
    world.settle()
    assert (version(world.policy.target), world.policy.candidate) == ("1.1.0", None)
    assert world.reason("Stalled") == "False/NotStalled"
    assert world.status.phase == "Completed"
    assert world.reason("Ready") == "True/Completed"


def test_a_range_that_falls_back_to_stable_takes_nothing_back() -> None:
    world = World(artifact={"repository": REPOSITORY, "semver": ">=1.0.0"})
    world.resolves(found("1.0.0", by_range=True))
    world.settle()
    world.spec(rings=[{"name": "fleet"}])
    world.resolves(found("1.1.0", by_range=True))
    world.settle()
    world.resolves(found("1.0.0", by_range=True))
    world.settle()
    assert (version(world.policy.target), world.policy.rolling_back) == ("1.1.0", False)


def test_the_same_content_under_another_version_is_renamed() -> None:
    world = World()
    world.release("stable-1", content="same")
    world.release("1.0.0", content="same")
    assert (world.status.run, version(world.policy.target)) == (1, "1.0.0")
    assert version(world.policy.stable) == "1.0.0"


WINDOWS = [{"schedule": "0 2 * * *", "duration": "4h", "timeZone": "Europe/Berlin"}]
NO_WINDOWS = [{"schedule": "0 0 30 2 *", "duration": "4h"}]


def test_what_servers_decide_by_is_in_the_policy() -> None:
    world = World(windows=WINDOWS, downgrade="Allow", confirmation="Reported")
    world.release("1.0.0")
    policy = world.policy
    assert [(known.schedule, known.duration, known.time_zone) for known in policy.windows] == [
        ("0 2 * * *", 4 * 3600, "Europe/Berlin")
    ]
    assert (policy.downgrade, policy.confirmation) == ("Allow", "Reported")


def test_windows_that_never_come_leave_the_published_ones() -> None:
    world = World(windows=WINDOWS)
    world.release("1.0.0")
    before = world.policy.windows
    world.spec(windows=[*WINDOWS, *NO_WINDOWS])
    world.settle()
    assert world.policy.windows == before
    assert world.reason("Stalled") == "True/InvalidSpec"
    assert "spec.windows[1]" in world.status.message


def test_windows_that_never_come_open_none_where_nothing_is_published() -> None:
    world = World()
    world.release("1.0.0")
    world.published, world.owner = None, ""
    world.spec(windows=NO_WINDOWS)
    world.look()
    assert version(world.policy.target) == "1.0.0"
    assert not is_open(world.policy.windows, world.now)


def test_with_downgrade_allow_an_older_release_goes_through_the_rings() -> None:
    world = World()
    world.release("1.1.0")
    world.spec(downgrade="Allow")
    world.tag("1.0.0")
    world.look()
    assert version(world.policy.candidate) == "1.0.0"
    world.serve()
    world.look()
    assert (version(world.policy.target), version(world.policy.stable)) == ("1.0.0", "1.1.0")
    assert (world.open_rings(), world.policy.rolling_back) == (["canary"], False)
    world.settle()
    assert version(world.policy.stable) == "1.0.0"


def test_what_a_hand_takes_back_is_not_released_first() -> None:
    world = World()
    world.release("1.0.0")
    world.spec(rollback={"from": "1.1.0", "to": "1.0.0"})
    world.release("1.1.0")
    assert (version(world.policy.target), world.policy.candidate) == ("1.0.0", None)
    assert world.reason("Stalled") == "True/RolledBack"
    assert "spec.rollback" in world.status.message
    world.spec(rollback=None)
    world.settle()
    assert version(world.policy.target) == "1.1.0"


def test_defaults_written_out_are_supported() -> None:
    world = World(downgrade="Forbid", confirmation="Auto", windows=[])
    world.release("1.0.0")
    assert world.status.phase == "Completed"


def oversized() -> list[dict[str, object]]:
    """Rings whose policy no ConfigMap holds."""
    names = [f"{index:03}" + "x" * 120 for index in range(100)]
    values = [f"{index:02}" + "y" * 120 for index in range(50)]
    return [
        {
            "name": f"ring-{index}",
            "deviceSelector": {
                "names": names,
                "matchExpressions": [
                    {"key": f"key-{key}", "operator": "In", "values": values} for key in range(10)
                ],
            },
        }
        for index in range(19)
    ]


def test_a_policy_that_is_too_large_is_not_published_but_a_pause_is() -> None:
    world = World()
    world.release("1.0.0")
    rings = oversized()
    world.spec(rings=rings)
    world.look()
    assert world.reason("Stalled") == "True/PolicyTooLarge"
    assert len(world.policy.rings) == 2
    world.spec(state="Paused")
    world.look()
    assert (len(world.policy.rings), world.policy.state) == (2, "Paused")
    world.manifest["metadata"] |= {"uid": "uid-2"}
    world.manifest["status"] = {}
    world.look()
    assert world.owner == "uid-2"
    assert not world.policy.releases
    assert not world.policy.rings
    fresh = World(rings=rings)
    fresh.look()
    assert fresh.published is None
    assert fresh.status.phase == "Stalled"


def test_a_policy_that_grows_too_large_in_mid_run_is_said_too() -> None:
    world = World(rings=[{"name": "fleet"}])
    world.release("1.0.0")
    world.spec(rings=[*oversized(), {"name": "fleet"}])
    world.look()
    assert world.reason("Stalled") == "True/PolicyTooLarge"
    assert [ring.name for ring in world.policy.rings] == ["fleet"]
    assert "shorten selectors" in world.status.message
