// express-oauth2-jwt-bearer (Auth0), with the subject as a required claim.
import express from 'express';
import { auth, claimEquals } from 'express-oauth2-jwt-bearer';

const { PORT, ISSUER, JWKS_URL, AUDIENCE, SUBJECT } = process.env;
const app = express();
app.use(auth({ issuer: ISSUER, jwksUri: JWKS_URL, audience: AUDIENCE, tokenSigningAlg: 'RS256' }));
app.use(claimEquals('sub', SUBJECT));
app.get('/orders', (request, response) => response.send('OK'));
app.listen(PORT, '127.0.0.1');
