"""Other people's classifiers on the photos of docs/results.md, each judged by `signs judge`."""
