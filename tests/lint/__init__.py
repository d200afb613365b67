"""A linter for dashboards and rule files: by the grammars of those who answer queries, and by our rules for dots."""
