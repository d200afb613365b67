"""Where the numbers of a series lie."""
