"""A Flask application as people write it, with a template next to it."""

from flask import Flask, Response, abort, jsonify, redirect, render_template, request, url_for

application = app = Flask(__name__)


@app.route("/")
def index():
    return render_template("hello.html", name=request.args.get("name", "world"))


@app.route("/form", methods=["POST"])
def form():
    return jsonify(
        fields=request.form.to_dict(),
        files={name: len(file.read()) for name, file in request.files.items()},
    )


@app.route("/json", methods=["PUT"])
def echo():
    return jsonify(request.get_json())


@app.route("/stream")
def stream():
    return Response((f"{i}\n" for i in range(3)), mimetype="text/plain")


@app.route("/away")
def away():
    return redirect(url_for("index", name="again"))


@app.route("/gone")
def gone():
    abort(410)


@app.route("/broken")
def broken():
    raise RuntimeError("a view's mistake")
