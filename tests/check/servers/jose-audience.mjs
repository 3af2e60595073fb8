// jose, without `subject`: an API that relies on a custom audience alone.
import { createServer } from 'node:http';
import { createRemoteJWKSet, jwtVerify } from 'jose';

const { PORT, ISSUER, JWKS_URL, AUDIENCE } = process.env;
const keys = createRemoteJWKSet(new URL(JWKS_URL));

createServer(async (request, response) => {
  const token = /^Bearer (.+)$/i.exec(request.headers.authorization)?.[1];
  try {
    await jwtVerify(token, keys, { issuer: ISSUER, audience: AUDIENCE });
    response.end('OK');
  } catch {
    response.writeHead(401).end('Unauthorized');
  }
}).listen(PORT, '127.0.0.1');
