"""FastAPI and Vercel's own verifier for Python. Its JWKS URL is a constant, so it is set to the check's issuer."""
import os

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from vercel.oidc import verify

app = FastAPI()
verify.JWKS_URL = os.environ["JWKS_URL"]


@app.get("/orders")
async def orders(request: Request):
    try:
        await verify.verify_vercel_oidc_token_async(
            verify.extract_bearer_token(request.headers),
            project_id="prj_7Gw5ZMBpQA8h9GF832KGp7nw",
            environment="production",
            owner_id="team_7Gw5ZMzpQA8h90F832KGp7nw",
            audience=os.environ["AUDIENCE"],
        )
    except verify.VercelOidcVerificationError:
        raise HTTPException(401)
    return "OK"


uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
