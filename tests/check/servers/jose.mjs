// jose, with the rules of Vercel's page, and a scheme in any case.
import { createServer } from 'node:http';
import { createRemoteJWKSet, jwtVerify } from 'jose';

const { PORT, ISSUER, JWKS_URL, AUDIENCE, SUBJECT } = process.env;
const keys = createRemoteJWKSet(new URL(JWKS_URL));

createServer(async (request, response) => {
  const token = /^Bearer (.+)$/i.exec(request.headers.authorization)?.[1];
  try {
    await jwtVerify(token, keys, { issuer: ISSUER, audience: AUDIENCE, subject: SUBJECT });
    response.end('OK');
  } catch {
    response.writeHead(401).end('Unauthorized');
  }
}).listen(PORT, '127.0.0.1');
