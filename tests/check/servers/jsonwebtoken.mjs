// jsonwebtoken, with the keys from jwks-rsa, as in the README of jsonwebtoken.
import { createServer } from 'node:http';
import jwt from 'jsonwebtoken';
import jwksClient from 'jwks-rsa';

const { PORT, ISSUER, JWKS_URL, AUDIENCE, SUBJECT } = process.env;
const client = jwksClient({ jwksUri: JWKS_URL });
const getKey = (header, callback) =>
  client.getSigningKey(header.kid, (error, key) => callback(error, key?.getPublicKey()));
const rules = { algorithms: ['RS256'], issuer: ISSUER, audience: AUDIENCE, subject: SUBJECT };

createServer((request, response) => {
  const token = /^Bearer (.+)$/i.exec(request.headers.authorization)?.[1];
  jwt.verify(token, getKey, rules, (error) => {
    if (error) response.writeHead(401).end('Unauthorized');
    else response.end('OK');
  });
}).listen(PORT, '127.0.0.1');
