"""The process around the app: sockets, threads, signals, a stop that loses no request."""
