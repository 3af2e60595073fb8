// The sample of https://vercel.com/docs/oidc/api, as of June 23, 2026, with this check's values.
import http from 'node:http';
import * as jose from 'jose';

const { PORT, ISSUER, JWKS_URL, AUDIENCE, SUBJECT } = process.env;
const JWKS = jose.createRemoteJWKSet(new URL(JWKS_URL));

const server = http.createServer(async (req, res) => {
  const token = req.headers['authorization']?.split('Bearer ')[1];

  if (!token) {
    res.statusCode = 401;
    res.end('Unauthorized');
    return;
  }

  try {
    const { payload } = await jose.jwtVerify(token, JWKS, { issuer: ISSUER, audience: AUDIENCE, subject: SUBJECT });

    res.statusCode = 200;
    res.end('OK');
  } catch (error) {
    res.statusCode = 401;
    res.end('Unauthorized');
  }
});

server.listen(PORT, '127.0.0.1');
