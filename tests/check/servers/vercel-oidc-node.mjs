// Vercel's own verifier for Node.js. Its JWKS URL is a constant, so its requests are sent to the check's issuer.
import { createServer, get } from 'node:http';
import https from 'node:https';

const { PORT, JWKS_URL, AUDIENCE } = process.env;
https.get = (url, { agent, ...options }) => get(JWKS_URL, options);
const { verifyVercelOidcToken } = await import('@vercel/oidc');
const rules = {
  audience: AUDIENCE,
  projectId: 'prj_7Gw5ZMBpQA8h9GF832KGp7nw',
  environment: 'production',
  ownerId: 'team_7Gw5ZMzpQA8h90F832KGp7nw',
};

createServer(async (request, response) => {
  const token = /^Bearer (.+)$/i.exec(request.headers.authorization)?.[1];
  try {
    await verifyVercelOidcToken(token, rules);
    response.end('OK');
  } catch {
    response.writeHead(401).end('Unauthorized');
  }
}).listen(PORT, '127.0.0.1');
