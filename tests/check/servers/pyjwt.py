"""PyJWT and its PyJWKClient, as in the documentation of PyJWT, behind Flask."""
import os

import jwt
from flask import Flask, request

app = Flask(__name__)
keys = jwt.PyJWKClient(os.environ["JWKS_URL"])


@app.get("/orders")
def orders():
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return "Unauthorized", 401
    try:
        key = keys.get_signing_key_from_jwt(token)
        jwt.decode(
            token,
            key,
            algorithms=["RS256"],
            issuer=os.environ["ISSUER"],
            audience=os.environ["AUDIENCE"],
            subject=os.environ["SUBJECT"],
        )
    except jwt.PyJWTError:
        return "Unauthorized", 401
    return "OK"


app.run("127.0.0.1", int(os.environ["PORT"]))
