"""How gunicorn serves `stock`: ``gunicorn --config python:exemplars.demo.gunicorn_conf exemplars.demo.stock:app``."""

workers = 1
graceful_timeout = 3  # seconds
control_socket_disable = True  # newer ones put a socket into the home directory, where two of them clash
