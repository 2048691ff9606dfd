from flask import Flask, redirect, render_template_string, request

from tandem.serving import Tandem

application = Flask(__name__)
tandem = Tandem(application)

PAGE = """<form method=post action=/check><textarea name=message></textarea><button>Check</button>
</form>{% if result %}<p class=result>{{ result }}</p>{% endif %}"""


@application.route("/")
def root():
    return redirect("/check")


@application.route("/check", methods=["GET", "POST"])
def check():
    result = None
    if request.method == "POST":
        answer = tandem.model.predict([request.form["message"]])
        result = "This is SPAM" if answer.labels[0] == "spam" else "Not spam"
    return render_template_string(PAGE, result=result)
