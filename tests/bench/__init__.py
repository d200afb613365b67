"""What a request and a scrape cost with us and with our peers: `python -m tests.bench`, or `make bench`."""
