"""Samples of a family of systems: drawn and solved (`chains`), kept in a file (`sample_file`), looked at
(`preview`)."""
