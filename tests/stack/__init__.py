"""The real programs around the package, built and started here without Docker, and whether every dot opens its trace."""
