"""The suites that come with the benchmark: a file each."""
