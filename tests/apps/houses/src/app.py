import pandas as pd
from flask import Flask, jsonify, request

from tandem.serving import Tandem

app = Flask(__name__)
tandem = Tandem(app)

COLUMNS = ["area", "rooms", "year", "district"]


@app.route("/")
def index():
    return "House prices: POST /predict"


@app.route("/predict", methods=["POST"])
def predict():
    data = request.get_json()
    rows = pd.DataFrame(data if isinstance(data, list) else [data], columns=COLUMNS)
    answer = tandem.model.predict(rows)
    return jsonify(prices=[round(float(value), -2) for value in answer.values])
