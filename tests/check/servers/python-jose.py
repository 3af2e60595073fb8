"""python-jose with the whole JWKS as the key, behind Flask. The sample reads the JWKS, because python-jose does not."""
import os
import threading
import time

import requests
from flask import Flask, request
from jose import JWTError, jwt

app = Flask(__name__)
cache = {"keys": None, "time": 0.0}
lock = threading.Lock()


def keys(after=600):
    """The keys, which are read again if they are older than this many seconds."""
    with lock:
        if cache["keys"] is None or time.monotonic() - cache["time"] > after:
            document = requests.get(os.environ["JWKS_URL"], timeout=5).json()
            cache.update(keys=document, time=time.monotonic())
        return cache["keys"]


def decode(token):
    rules = dict(issuer=os.environ["ISSUER"], audience=os.environ["AUDIENCE"], subject=os.environ["SUBJECT"])
    kid = jwt.get_unverified_header(token).get("kid")
    known = any(key.get("kid") == kid for key in keys()["keys"])
    return jwt.decode(token, keys() if known else keys(1), algorithms=["RS256"], **rules)


@app.get("/orders")
def orders():
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return "Unauthorized", 401
    try:
        decode(token)
    except JWTError:
        return "Unauthorized", 401
    return "OK"


app.run("127.0.0.1", int(os.environ["PORT"]))
