"""Grafana's dashboards, and what writes them: a development tool. Only the JSON is shipped."""
