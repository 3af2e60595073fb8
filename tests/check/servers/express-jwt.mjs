// express-jwt (Auth0), with the keys from jwks-rsa, as in the README of jwks-rsa.
import express from 'express';
import { expressjwt } from 'express-jwt';
import { expressJwtSecret } from 'jwks-rsa';

const { PORT, ISSUER, JWKS_URL, AUDIENCE, SUBJECT } = process.env;
const secret = expressJwtSecret({ cache: true, rateLimit: true, jwksRequestsPerMinute: 5, jwksUri: JWKS_URL });
const app = express();
app.use(expressjwt({ secret, audience: AUDIENCE, issuer: ISSUER, algorithms: ['RS256'] }));
app.get('/orders', (request, response) => response.status(request.auth.sub === SUBJECT ? 200 : 403).send('OK'));
app.listen(PORT, '127.0.0.1');
