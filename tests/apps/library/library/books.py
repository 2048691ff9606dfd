from flask import Blueprint, current_app, redirect, render_template, url_for

bp = Blueprint("books", __name__)
BOOKS = {"dune": "Dune", "emma": "Emma", "ulysses": "Ulysses"}


@bp.route("/")
def index():
    return redirect(url_for("books.all_books"))


@bp.route("/books")
def all_books():
    return render_template("books.html", books=BOOKS, shelf=current_app.config["SHELF"])
