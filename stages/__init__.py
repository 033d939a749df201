"""The stages of dvc.yaml: one file, one function, one block of params.yaml each."""

import sys

import signs  # noqa: F401  (before a stage imports OpenCV: sets its limits)
from signs import errors

if sys.argv[0] == "-m":  # as dvc.yaml starts a stage: it has not been imported yet
    sys.excepthook = errors.report_uncaught
