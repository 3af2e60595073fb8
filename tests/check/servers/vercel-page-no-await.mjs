// The sample of https://vercel.com/docs/oidc/api, as the page printed it until mid-2026: `jwtVerify` is not awaited.
import http from 'node:http';
import * as jose from 'jose';

const { PORT, ISSUER, JWKS_URL, AUDIENCE, SUBJECT } = process.env;
const JWKS = jose.createRemoteJWKSet(new URL(JWKS_URL));

const server = http.createServer((req, res) => {
  const token = req.headers['authorization']?.split('Bearer ')[1];

  if (!token) {
    res.statusCode = 401;
    res.end('Unauthorized');
    return;
  }

  try {
    const { payload } = jose.jwtVerify(token, JWKS, { issuer: ISSUER, audience: AUDIENCE, subject: SUBJECT });

    res.statusCode = 200;
    res.end('OK');
  } catch (error) {
    res.statusCode = 401;
    res.end('Unauthorized');
  }
});

server.listen(PORT, '127.0.0.1');
