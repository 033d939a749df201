"""The stages of dvc.yaml: one file, one function, one block of params.yaml each."""

import os
import signal
import sys

import signs  # noqa: F401  (before a stage imports OpenCV: sets its limits)
from signs import errors

# Read when TensorFlow is imported: no notes on processor and attributes; failures still raise.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# As dvc.yaml starts a stage, which has not been imported yet; a shell may have made it deaf.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, errors.end_at_once)
