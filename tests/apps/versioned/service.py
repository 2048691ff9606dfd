"""Credit scores: the rules, version 7."""
from flask import Flask, jsonify, request

web = Flask(__name__)
VERSION = "7.2.0"


@web.route("/version")
def version():
    return VERSION, 200, {"Content-Type": "text/plain"}


@web.route("/health")
def health():
    return jsonify(status="UP")


@web.route("/score", methods=["PUT", "POST"])
def score():
    asked = request.get_json(force=True)
    points = 300 + min(asked["income"], 100_000) // 200 - 40 * asked.get("defaults", 0)
    return jsonify({"score": points, "rules": VERSION})
