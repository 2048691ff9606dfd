"""The process around the app: sockets, threads, signals, a stop without losses."""
