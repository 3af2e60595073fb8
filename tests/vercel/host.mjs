// Runs the output of `vercel build` as Vercel does. A request follows the output's routes to a function. Each function
// is a process that talks over VERCEL_IPC_PATH (NUL-terminated JSON frames). The only dependency is Node.
//
//   node host.mjs check OUTPUT                   exits 0 if every function that a route names exists
//   node host.mjs serve OUTPUT [NAME=VALUE]...   prints its port, serves until SIGTERM; NAME=VALUE is the functions' environment
//
// `serve` adds the header in the file HOST_HEADER (`name: value`) to each request, as Vercel adds the token. It writes
// to HOST_RECORD each frame, with log messages decoded, and each line that a function prints.

import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { appendFileSync, existsSync, mkdtempSync, readFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';

const [command, outputArgument, ...variables] = process.argv.slice(2);
const output = resolve(outputArgument);

const readJson = (path) => JSON.parse(readFileSync(path, 'utf8'));
const routesOf = (folder) => readJson(join(folder, 'config.json')).routes ?? [];
const functionAt = (folder, path) =>
  [path, join(path, 'index')].map((name) => join(folder, 'functions', `${name}.func`)).find((path) => existsSync(path));

/** Follows the routes of the Build Output API: the function that answers `path`, and the path that it sees. */
function follow(folder, path) {
  // A `handle` begins a phase. The phases for errors and answers come after the function has been found.
  let phase = 'first';
  const phases = { first: [], filesystem: [] };
  for (const route of routesOf(folder)) {
    if (route.handle) phase = route.handle;
    else phases[phase]?.push(route);
  }
  let current = path;
  let seen = path;
  const takes = ({ src, destination, status, dest, transforms = [] }) => {
    const match = new RegExp(`^(?:${src})$`).exec(current);
    if (!match || destination || status) return match;
    const filled = (text) => text.replace(/\$(\d)/g, (_, group) => match[group] ?? '');
    for (const { type, args } of transforms) if (type === 'request.path') seen = filled(args);
    current = filled(dest);
    return functionAt(folder, current);
  };
  const last = phases.first.find(takes) ?? (functionAt(folder, current) ? undefined : phases.filesystem.find(takes));
  if (last?.destination) return follow(join(folder, 'services', last.destination.service), path);
  return { functionFolder: functionAt(folder, current), seen };
}

function check() {
  const problems = [];
  const visit = (folder) => {
    for (const { dest, destination } of routesOf(folder)) {
      if (destination?.service) visit(join(folder, 'services', destination.service));
      else if (dest && !dest.includes('$') && !dest.endsWith('/404.html') && !functionAt(folder, dest))
        problems.push(`a route of ${folder} leads to ${dest}, which is not a function`);
    }
  };
  visit(output);
  for (const path of ['/', '/api/call', '/backend', '/backend/healthz'])
    if (!follow(output, path).functionFolder) problems.push(`${path} leads to no function`);
  for (const problem of problems) console.error(problem);
  process.exitCode = problems.length ? 1 : 0;
}

const record = (line) => appendFileSync(process.env.HOST_RECORD, `${line}\n`);
const children = [];
const functions = new Map();
let invocations = 0;
let ends = 0;
let allEnded;
let frontDoor;

/** Starts a function once; resolves to the port that it reports. */
function start(folder) {
  if (!functions.has(folder)) functions.set(folder, startProcess(folder));
  return functions.get(folder);
}

async function startProcess(folder) {
  const name = relative(output, folder);
  const { handler, filePathMap = {} } = readJson(join(folder, '.vc-config.json'));
  const executable = filePathMap[handler] ? resolve(output, '../..', filePathMap[handler]) : join(folder, handler);
  const socket = join(mkdtempSync(join(tmpdir(), 'host-')), 'ipc');
  const { promise: started, resolve: reports, reject: fails } = deferred();
  const server = net.createServer((stream) => {
    let rest = '';
    stream.setEncoding('utf8').on('data', (text) => {
      const frames = (rest + text).split('\0');
      rest = frames.pop();
      for (const frame of frames.map((text) => JSON.parse(text))) {
        if (frame.type === 'log') frame.payload.message = Buffer.from(frame.payload.message, 'base64').toString();
        record(`frame ${name} ${frame.type} ${JSON.stringify(frame.payload)}`);
        if (frame.type === 'server-started') reports(frame.payload.httpPort);
        if (frame.type === 'end' && ++ends === invocations) allEnded?.();
      }
    });
  });
  await once(server.listen(socket), 'listening');
  const child = spawn(executable, [], {
    cwd: folder,
    // A new process group, so that the function's own processes can be stopped too.
    detached: true,
    env: {
      // At Vercel, each function has its own machine and port 3000.
      VERCEL_DEV_PORT: String(await freePort()),
      VERCEL_IPC_PATH: socket,
      VERCEL: '1',
      VERCEL_ENV: 'production',
      VERCEL_PROJECT_ID: 'prj_7Gw5ZMBpQA8h9GF832KGp7nw',
      VERCEL_TARGET_ENV: 'production',
      VERCEL_URL: `127.0.0.1:${frontDoor.address().port}`,
      ...Object.fromEntries(variables.map((text) => text.split(/=(.*)/s, 2))),
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.push(child);
  for (const input of [child.stdout, child.stderr])
    createInterface({ input }).on('line', (line) => record(`print ${name} ${line}`));
  child.once('error', fails);
  child.once('exit', (code, signal) => fails(new Error(`${name} stopped: ${signal ?? `exit code ${code}`}`)));
  const port = await started;
  // Vercel's proxy reports its start a moment before it listens.
  while (!(await listens(port))) await setTimeout(5);
  return port;
}

function listens(port) {
  return new Promise((answer) => {
    const socket = net.connect(port, '127.0.0.1', () => answer(socket.destroy().destroyed));
    socket.once('error', () => answer(false));
  });
}

function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  await new Promise((closed) => server.close(closed));
  return port;
}

async function invoke(request, response) {
  const url = new URL(request.url, 'http://host');
  const { functionFolder, seen } = follow(output, url.pathname);
  if (!functionFolder) return void response.writeHead(404).end('NOT_FOUND');
  const port = await start(functionFolder);
  const [header, value] = readFileSync(process.env.HOST_HEADER, 'utf8').trim().split(': ');
  const headers = {
    ...request.headers,
    'x-vercel-internal-invocation-id': randomUUID(),
    'x-vercel-internal-request-id': String(++invocations),
    [header]: value,
  };
  record(`invocation ${relative(output, functionFolder)}`);
  const passed = http.request({ port, host: '127.0.0.1', method: request.method, path: seen + url.search, headers }, (answer) => {
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response);
  });
  passed.once('error', (error) => {
    record(`host ${error.message}`);
    response.writeHead(502).end(error.message);
  });
  request.pipe(passed);
}

async function serve() {
  frontDoor = http.createServer((request, response) =>
    invoke(request, response).catch((error) => response.writeHead(500).end(error.message)),
  );
  await once(frontDoor.listen(0, '127.0.0.1'), 'listening');
  process.once('SIGTERM', async () => {
    frontDoor.close();
    // An invocation ends with its `end` frame, which comes after the answer. The record shows if the frame is missing.
    if (ends < invocations) await Promise.race([new Promise((done) => (allEnded = done)), setTimeout(5_000)]);
    const running = children.filter((child) => child.exitCode === null && child.signalCode === null);
    const stopped = running.map((child) => once(child, 'close'));
    for (const child of running) process.kill(-child.pid, 'SIGTERM');
    await Promise.all(stopped);
    process.exit();
  });
  console.log(frontDoor.address().port);
}

await { check, serve }[command]();
