"""What a team does around a model: gate, verify, compare, release, scan."""
