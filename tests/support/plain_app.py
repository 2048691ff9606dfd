"""A plain WSGI app: no Flask, no extension, `/version` and `/score` of its own shape."""

from tandem.service.questions import Expected, Question

HEALTH = "/health"
SERVER = '''
"""Greets, and tells its version its own way; stops at once when told to."""
import json, os, pathlib, sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

WORD = pathlib.Path(os.environ["TANDEM_MODEL"], "word.txt").read_text().strip()


def app(environ, start_response):
    path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
    if path == "/health":
        start_response("500 No" if WORD == "ill" else "204 No Content", [])
        return []
    if path == "/version":
        status, body = "200 OK", json.dumps({"version": "1.2.3", "word": WORD})
    elif path == "/score":
        status, body = "200 OK", "42 : 17"
    elif path == "/predict" and method == "POST":
        size = int(environ.get("CONTENT_LENGTH") or 0)
        number = json.loads(environ["wsgi.input"].read(size))["number"]
        status = "500 Broken" if WORD == "broken" else "200 OK"
        body = json.dumps({"double": 2 * number, "by": WORD})
    else:
        status, body = "404 Not Found", "<h1>nothing here</h1>"
    start_response(status, [("Content-Type", "text/plain")])
    return [body.encode()]


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments): pass


port = int(sys.argv[1] if len(sys.argv) > 1 else os.environ["PORT"])
host = os.environ["HOST"]
print("listening on", port, flush=True)
make_server(host, port, app, Server, Quiet).serve_forever()
'''


def question(word: str) -> Question:
    """What the app must answer whose model is that word."""
    return Question(
        method="POST",
        path="/predict",
        headers={"Content-Type": "application/json"},
        body=b'{"number": 21}',
        expected=Expected(json={"double": 42, "by": word}),
    )
