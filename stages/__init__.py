"""The stages of dvc.yaml: one file, one function, one block of params.yaml each."""

import signs  # noqa: F401  (before a stage imports OpenCV: sets its limits)
