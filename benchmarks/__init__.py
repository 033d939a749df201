"""Commands that measure the figures in README.md and docs/."""
