"""joserfc, the successor of authlib.jose, behind Flask. The sample reads the JWKS, because joserfc does not."""
import os
import threading
import time

import requests
from flask import Flask, request
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

app = Flask(__name__)
rules = jwt.JWTClaimsRegistry(
    iss={"essential": True, "value": os.environ["ISSUER"]},
    aud={"essential": True, "value": os.environ["AUDIENCE"]},
    sub={"essential": True, "value": os.environ["SUBJECT"]},
    exp={"essential": True},
)
cache = {"keys": None, "time": 0.0}
lock = threading.Lock()


def keys(after=600):
    """The keys, which are read again if they are older than this many seconds."""
    with lock:
        if cache["keys"] is None or time.monotonic() - cache["time"] > after:
            document = requests.get(os.environ["JWKS_URL"], timeout=5).json()
            cache.update(keys=KeySet.import_key_set(document), time=time.monotonic())
        return cache["keys"]


def decode(token):
    try:
        return jwt.decode(token, keys(), algorithms=["RS256"])
    except InvalidKeyIdError:
        return jwt.decode(token, keys(1), algorithms=["RS256"])


@app.get("/orders")
def orders():
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return "Unauthorized", 401
    try:
        rules.validate(decode(token).claims)
    except (JoseError, ValueError):
        return "Unauthorized", 401
    return "OK"


app.run("127.0.0.1", int(os.environ["PORT"]))
