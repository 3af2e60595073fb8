"""authlib.jose with claims options, behind Flask. The sample reads the JWKS, because authlib.jose does not."""
import os
import threading
import time

import requests
from authlib.jose import JsonWebKey, JsonWebToken
from authlib.jose.errors import JoseError
from flask import Flask, request

app = Flask(__name__)
jwt = JsonWebToken(["RS256"])
rules = {
    "iss": {"essential": True, "value": os.environ["ISSUER"]},
    "aud": {"essential": True, "value": os.environ["AUDIENCE"]},
    "sub": {"essential": True, "value": os.environ["SUBJECT"]},
    "exp": {"essential": True},
}
cache = {"keys": None, "time": 0.0}
lock = threading.Lock()


def key_set(document):
    # A key type that Authlib does not know is a KeyError for the whole set, so such keys are left out.
    return JsonWebKey.import_key_set({"keys": [key for key in document["keys"] if key["kty"] in ("RSA", "EC", "oct")]})


def keys(after=600):
    """The keys, which are read again if they are older than this many seconds."""
    with lock:
        if cache["keys"] is None or time.monotonic() - cache["time"] > after:
            document = requests.get(os.environ["JWKS_URL"], timeout=5).json()
            cache.update(keys=key_set(document), time=time.monotonic())
        return cache["keys"]


def decode(token):
    try:
        return jwt.decode(token, keys(), claims_options=rules)
    except ValueError:  # No key has this `kid`.
        return jwt.decode(token, keys(1), claims_options=rules)


@app.get("/orders")
def orders():
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return "Unauthorized", 401
    try:
        decode(token).validate()
    except (JoseError, ValueError):
        return "Unauthorized", 401
    return "OK"


app.run("127.0.0.1", int(os.environ["PORT"]))
