"""gunicorn's settings: the application is loaded once, and the workers are forked from that."""

bind = "127.0.0.1:8000"
workers = 2
worker_class = "gthread"
threads = 4
preload_app = True
keepalive = 30  # seconds; a connection that is kept stays with its worker
graceful_timeout = 30  # seconds until a worker is killed: more than the handler's flush_timeout
