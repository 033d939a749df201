"""The classifier in the formats of other runtimes, and what they predict."""
