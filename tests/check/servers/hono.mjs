// Hono's own middleware for a JWKS.
import { serve } from '@hono/node-server';
import { Hono } from 'hono';
import { jwk } from 'hono/jwk';

const { PORT, ISSUER, JWKS_URL, AUDIENCE, SUBJECT } = process.env;
const app = new Hono();
app.use(jwk({ jwks_uri: JWKS_URL, alg: ['RS256'], verification: { iss: ISSUER, aud: AUDIENCE } }));
app.get('/orders', (context) => context.text('OK', context.get('jwtPayload').sub === SUBJECT ? 200 : 403));
serve({ fetch: app.fetch, port: Number(PORT), hostname: '127.0.0.1' });
