"""A page that counts its readers."""

import itertools

from flask import Flask
from waitress import serve

app = Flask(__name__)
visits = itertools.count(1)


@app.get("/")
def page() -> str:
    """Return the page."""
    return f"hello, reader {next(visits)}\n"


serve(app, listen="0.0.0.0:8080", threads=2)
