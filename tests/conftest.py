"""Fixtures live in ``tests/fixtures``, one module for each kind."""

import os

from hypothesis import settings

pytest_plugins = ["tests.fixtures.servers", "tests.fixtures.databases", "tests.fixtures.signers"]

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
