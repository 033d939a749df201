"""Train a network on prepared images and export it."""
