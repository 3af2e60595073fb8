#!/usr/bin/env python3
"""The size of the two release binaries, the time from start to first answer, and the resident memory after that answer.

    cargo build --release && benches/start.py

Medians of 20 starts, in turn. The backend's issuer is a closed port, so that the network does not matter.
"""

import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time

RUNS = 20
RELEASE = pathlib.Path(__file__).resolve().parent.parent / "target" / "release"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def first_answer(port):
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                return connection.recv(12)
        except ConnectionRefusedError:
            continue


def start(program, variables, port):
    """Milliseconds to the first answer, and kilobytes of resident memory after it."""
    began = time.perf_counter()
    process = subprocess.Popen([program], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if not first_answer(port).startswith(b"HTTP/1.1 "):
            sys.exit(f"{program} gave no answer")
        milliseconds = (time.perf_counter() - began) * 1000
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        return milliseconds, int(status.split("VmRSS:")[1].split()[0])
    finally:
        process.kill()
        process.wait()


def main():
    port = str(free_port())
    ends = {
        "backend": {
            "OIDC_TEAM_SLUG": "acme",
            "OIDC_PROJECT_NAME": "storefront",
            "OIDC_ISSUER": f"http://127.0.0.1:{free_port()}",
            "PORT": port,
        },
        "index": {"VERCEL_DEV_PORT": port},
    }
    rounds = {name: [] for name in ends}
    for _ in range(RUNS):
        for name, variables in ends.items():
            rounds[name].append(start(RELEASE / name, variables, int(port)))
    print(f"{'binary':<10}{'MB':>8}{'first answer, ms':>20}{'resident, MB':>16}")
    for name, values in rounds.items():
        size = os.path.getsize(RELEASE / name) / 1e6
        milliseconds, kilobytes = (statistics.median(column) for column in zip(*values))
        print(f"{name:<10}{size:>8.1f}{milliseconds:>20.1f}{kilobytes / 1000:>16.1f}")


main()
