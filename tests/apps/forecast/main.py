import datetime

from flask import Flask, abort, jsonify, request
from tandem.serving import Tandem

tandem = Tandem()


def features(day: datetime.date, last_week: float) -> dict:
    return {
        "weekday": float(day.weekday()),
        "month": float(day.month),
        "last_week": last_week,
    }


def create_app(config=None):
    app = Flask("forecast")
    app.config.update(config or {})
    tandem.init_app(app)

    @app.get("/api/v1/forecast")
    def forecast():
        try:
            start = datetime.date.fromisoformat(request.args["from"])
            last_week = float(request.args["last_week"])
        except (KeyError, ValueError):
            abort(400)
        days = [start + datetime.timedelta(days=n) for n in range(7)]
        values = tandem.model.predict([features(day, last_week) for day in days]).values
        return jsonify({str(day): round(float(v), 1) for day, v in zip(days, values)})

    return app
