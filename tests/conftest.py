"""What holds for all tests."""

import os
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# What the `make` around the tests was told is not for those that tests start.
for name in ("ARGS", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS"):
    os.environ.pop(name, None)


class ByFolder(LoadScopeScheduling):  # type: ignore[misc]
    """A folder's tests share a process, and what is made once for many of them.

    Those of the pipeline take half of the time, so both processes get some of its files.
    """

    def _split_scope(self, nodeid: str) -> str:
        folder = nodeid.rpartition("/")[0]
        return nodeid.partition("::")[0] if folder == "tests/pipeline" else folder


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFolder:
    """Who runs what, with -n."""
    return ByFolder(config, log)
