"""Published benchmarks: their files checked, their metric computed, their published rows beside
it."""
