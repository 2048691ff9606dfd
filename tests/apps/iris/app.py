import os
import pickle

from flask import Flask, render_template, request
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

app = Flask(__name__)

MODEL = "model.pkl"
if not os.path.exists(MODEL):
    data = load_iris()
    clf = LogisticRegression(max_iter=1000).fit(data.data, data.target_names[data.target])
    pickle.dump(clf, open(MODEL, "wb"))
model = pickle.load(open(MODEL, "rb"))


@app.route("/")
def home():
    return render_template("index.html")


@app.route("/predict", methods=["GET", "POST"])
def predict():
    if request.method == "POST":
        sl = float(request.form["sepal_length"])
        sw = float(request.form["sepal_width"])
        pl = float(request.form["petal_length"])
        pw = float(request.form["petal_width"])
        prediction = model.predict([[sl, sw, pl, pw]])[0]
        return render_template("index.html", prediction_text="Species: " + prediction)
    return render_template("index.html")


if __name__ == "__main__":
    app.run(debug=True)
