#!/usr/bin/env python3
"""A small API without protection, to stand behind a proxy with the gate.

It answers every request with what arrived: method, path, headers as they were sent, headers as a CGI or WSGI program
sees them, and its body's length and SHA-256. It echoes one message of a WebSocket. `GET /seen` is how many other
requests have arrived. It prints its port, and ends with its standard input.
"""

import base64
import hashlib
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

seen = 0
lock = threading.Lock()


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        global seen
        if self.path == "/seen":
            return self.send({"seen": seen})
        with lock:
            seen += 1
        if self.headers.get("Upgrade", "").lower() == "websocket":
            return self.echo_one_message()
        digest, length = hashlib.sha256(), 0
        for part in self.body():
            digest.update(part)
            length += len(part)
        environ = {}
        for name, value in self.headers.items():
            name = "HTTP_" + name.upper().replace("-", "_")
            environ[name] = f"{environ[name]},{value}" if name in environ else value
        body = {"length": length, "sha256": digest.hexdigest()}
        # `self.path` would have one slash at its start.
        path, headers = self.requestline.split()[1], self.headers.items()
        self.send({"method": self.command, "path": path, "headers": headers, "environ": environ, "body": body})

    def body(self):
        chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        left = int(self.rfile.readline(), 16) if chunked else int(self.headers.get("Content-Length", 0))
        while left:
            part = self.rfile.read(min(left, 65536))
            if not part:
                raise ConnectionError("the body is incomplete")
            yield part
            left -= len(part)
            if chunked and not left:
                self.rfile.readline()
                left = int(self.rfile.readline(), 16)
        if chunked:
            self.rfile.readline()

    def send(self, value):
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def echo_one_message(self):
        """RFC 6455: the handshake, then one short message, sent back after the caller's name."""
        self.close_connection = True
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.wfile.flush()
        length = self.rfile.read(2)[1] & 127
        mask, message = self.rfile.read(4), self.rfile.read(length)
        message = bytes(byte ^ mask[index % 4] for index, byte in enumerate(message))
        answer = self.headers.get("X-Vercel-Oidc-Subject", "").encode() + b": " + message
        self.wfile.write(bytes([0x81, len(answer)]) + answer)

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 1024

    def handle_error(self, request, client_address):
        """Prints nothing: the tests close connections early."""


server = Server(("127.0.0.1", 0), Api)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
os._exit(0)
