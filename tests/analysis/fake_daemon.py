"""A process that holds a store as a daemon does: flock on its lock, a ROUTER that answers AskTail.

Arguments: store, endpoint, a file with the answers (pickled list of AskTail bodies; the last repeats), and
`silent` to hold the lock without answering, or `late` to listen only once `<store>/go` exists. Prints `ready`
once it holds the lock and, unless late, listens.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import sys
import time
from pathlib import Path

import zmq

from energyd_client.protocol import Answer, AskTail, pack, unpack


def main(store: str, endpoint: str, answers: str, mode: str) -> None:
    bodies = pickle.loads(Path(answers).read_bytes())
    fd = os.open(Path(store) / "lock", os.O_RDWR | os.O_CREAT, 0o640)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if mode == "late":
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while not (Path(store) / "go").exists():
            time.sleep(0.01)
    facts = {
        "pid": os.getpid(),
        "endpoint": endpoint,
        "publish": "",
        "version": "0",
        "started_ns": 0,
        "store": store,
    }
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(endpoint)
        os.pwrite(fd, json.dumps(facts).encode() + b"\n", 0)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            *route, frame = router.recv_multipart()
            question = unpack(frame)
            if mode != "silent" and isinstance(question, AskTail):
                body = bodies.pop(0) if len(bodies) > 1 else bodies[0]
                router.send_multipart([*route, pack(Answer(question.req, body))])


if __name__ == "__main__":
    main(*sys.argv[1:])
