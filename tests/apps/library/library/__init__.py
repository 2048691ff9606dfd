import os

from flask import Flask


def create_app(test_config=None):
    app = Flask(__name__, instance_relative_config=True)
    app.config.from_mapping(SECRET_KEY="dev", SHELF=os.environ.get("SHELF", "A"))
    if test_config:
        app.config.update(test_config)

    from . import books, recommend

    app.register_blueprint(books.bp)
    app.register_blueprint(recommend.bp, url_prefix="/recommend")
    return app
