import os

from classify import classify
from flask import Flask, render_template, request
from PIL import Image

app = Flask(__name__)


@app.route("/", methods=["GET", "POST"])
def upload():
    if request.method == "GET":
        return render_template("upload.html")
    image = Image.open(request.files["file"].stream)
    return render_template("upload.html", label=classify(image))


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=int(os.environ.get("PORT", 5000)))
