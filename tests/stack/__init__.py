"""The real programs around the package, built and started here without Docker: does every dot open its trace?"""
