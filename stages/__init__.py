"""The stages of dvc.yaml: one file, one function, one block of params.yaml each."""

import os
import signal
import sys

import signs  # noqa: F401  (before a stage imports OpenCV: sets its limits)
from signs import errors

# TensorFlow reads it when it is imported. What it prints below 3 tells what processor it found
# and, as an error after each epoch, of an attribute that it does not know; failures still raise.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# As dvc.yaml starts a stage, which has not been imported yet; a shell may have made it deaf.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, errors.end_at_once)
