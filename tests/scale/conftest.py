"""Servers of the tests of bulk work."""

from tests.harness import nobody_listens, running_s3, s3  # noqa: F401
