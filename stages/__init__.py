"""The stages of dvc.yaml: one file, one function, one block of params.yaml each."""
