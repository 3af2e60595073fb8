#!/usr/bin/env python3
"""Counts the user-space instructions of a request, with valgrind's callgrind.

    benches/instructions.py

Needs Linux, valgrind and python3. A count is repeatable on any machine for one build, unlike a time. Each row is the
difference of two runs with different numbers of requests over one connection, so the start of the process is left out.
"""

import os
import re
import socket
import subprocess
import tempfile
from pathlib import Path

os.chdir(Path(__file__).resolve().parent.parent)
CARGO = ["cargo", "build", "--release", "--locked"]
subprocess.run([*CARGO, "--package", "bench", "--bin", "plain"], check=True)
# Built last and separately, so that only the features of its own dependencies are on.
subprocess.run([*CARGO, "--package", "backend"], check=True)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Connection:
    def __init__(self, port):
        while True:
            try:
                self.socket = socket.create_connection(("127.0.0.1", port))
                break
            except ConnectionRefusedError:
                continue
        self.answer = self.socket.makefile("rb")

    def get(self, path, token):
        authorization = f"authorization: Bearer {token}\r\n" if token else ""
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n{authorization}\r\n".encode())
        status, length = int(self.answer.readline().split()[1]), 0
        while line := self.answer.readline().strip().lower():
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        self.answer.read(length)
        return status


def count(command, port, path, tokens, requests, status, settings):
    """The instructions of the whole process for this many requests."""
    counts = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *command]
    server = subprocess.Popen(counts, env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    connection = Connection(port)
    # The first request waits for the keys.
    connection.get("/", tokens[0])
    for number in range(requests):
        found = connection.get(path, tokens[number % len(tokens)])
        assert found == status, f"{path}: status {found}, expected {status}"
    server.terminate()
    return int(re.search(rb"Collected : (\d+)", server.communicate()[1])[1])


with tempfile.TemporaryDirectory() as folder:
    plain = subprocess.Popen(["target/release/plain", folder], stdout=subprocess.PIPE, text=True)
    issuer, _ = plain.stdout.readline().strip(), plain.stdout.readline()
    cases = {name: Path(folder, name).read_text().split() for name in ["one", "thousand", "forged", "unknown_kid"]}
    settings = {"OIDC_TEAM_SLUG": "acme", "OIDC_PROJECT_NAME": "storefront", "OIDC_ISSUER": issuer}
    print("| request | instructions |\n| --- | ---: |")
    for row, path, tokens, requests, status, more in [
        ("a probe, `/healthz`", "/healthz", [None], 1000, 200, {}),
        ("with the token of the last request", "/", cases["one"], 1000, 200, {}),
        ("with a new token", "/", cases["thousand"], 200, 200, {"OIDC_REMEMBERED_TOKENS": "0"}),
        ("with a forged token", "/", cases["forged"], 200, 401, {}),
        ("with an unknown `kid`", "/", cases["unknown_kid"], 1000, 401, {}),
    ]:
        totals = []
        for number in [requests, 3 * requests]:
            port = free_port()
            of_server = settings | more | {"HOST": "127.0.0.1", "PORT": str(port), "TOKIO_WORKER_THREADS": "1"}
            totals.append(count(["target/release/backend"], port, path, tokens, number, status, of_server))
        print(f"| {row} | {(totals[1] - totals[0]) // (2 * requests):,} |", flush=True)
    plain.kill()
