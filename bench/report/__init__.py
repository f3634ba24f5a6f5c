"""What records say: one frame of them, tables and charts declared as data, the page, and comparisons."""
