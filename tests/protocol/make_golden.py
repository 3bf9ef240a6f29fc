"""How did the golden frames come about? Run by hand when a message type is added.

    PYTHONPATH=client python tests/protocol/make_golden.py

Each frame is packed here without protocol.py, straight from its meaning. A frame that exists is never
written again: to change it is to change the protocol, and VERSION with it.
"""

import pprint
from pathlib import Path

import msgpack

GOLDEN = Path(__file__).parent / "golden"
RUN, STAGE, T = "20260102-030405-0a1b2c3d", "4711-00112233aabbccdd.1", 123_456_789_012_345

MEANINGS = [
    {"type": "hello", "v": 1, "client": "4711-00112233aabbccdd", "pid": 4711, "start_ticks": 987_654,
     "boot_id": "6d1f0c3e-9a55-4e07-8d11-3c1f4d2b7a90", "timens": 4_026_531_834, "version": "0.1.0"},
    {"type": "bye"},
    {"type": "run_begin", "seq": 1, "t_ns": T, "run_id": RUN, "name": "kd-1b",
     "labels": {"pipeline": "kd", "student": "1B", "seed": 0, "lr": 0.5, "resumed": False},
     "env": {"argv": "train.py", "hostname": "n1"}, "git_commit": "0123456789abcdef0123456789abcdef01234567"},
    {"type": "labels", "seq": 1, "t_ns": T, "run_id": RUN, "labels": {"rank": 3}},
    {"type": "process", "seq": 2, "t_ns": T + 1, "visible_devices": "0,1", "device_order": "PCI_BUS_ID",
     "local_rank": "1", "gpu_uuids": ["GPU-11111111-2222-3333-4444-555555555555"]},
    {"type": "begin", "seq": 3, "t_ns": T + 2, "run_id": RUN, "stage_id": STAGE, "name": "student.train",
     "parent_id": "4711-00112233aabbccdd.0", "devices": ["0"], "synced": True},
    {"type": "count", "seq": 4, "t_ns": T + 3, "run_id": RUN, "stage_id": STAGE,
     "counts": {"label": 4096, "positions": 2**53}},
    {"type": "end", "seq": 5, "t_ns": T + 4, "run_id": RUN, "stage_id": STAGE, "status": "error"},
    {"type": "metric", "seq": 6, "t_ns": T + 5, "run_id": RUN, "name": "exact_match", "value": 0.8125,
     "n": 700, "stage_id": STAGE},
    {"type": "artifact", "seq": 7, "t_ns": T + 6, "run_id": RUN, "artifact_id": "a-0011223344556677",
     "name": "cache", "kind": "logit_cache", "stage_id": STAGE, "uri": "/data/cache", "sha256": "ab" * 32,
     "size_bytes": 2**40, "attrs": {"top_k": 16}},
    {"type": "artifact_use", "seq": 8, "t_ns": T + 7, "run_id": RUN, "artifact_id": "a-0011223344556677",
     "stage_id": STAGE},
    {"type": "run_end", "seq": 9, "t_ns": T + 8, "run_id": RUN, "status": "ok"},
    {"type": "ask_status", "req": 1},
    {"type": "ask_tail", "req": 2},
    {"type": "ask_stage", "req": 3, "stage_id": STAGE, "power": True},
    {"type": "ask_release", "req": 4, "for_s": 300},
    {"type": "welcome", "v": 1, "version": "0.1.0", "publish": "ipc:///run/energyd/publish.sock",
     "clock_ok": True, "credit": 2000, "last_seq": 0},
    {"type": "ack", "seq": 9},
    {"type": "error", "code": "malformed", "message": "Expected `int`, got `str`", "field": "t_ns", "seq": 4,
     "req": 1},
    {"type": "answer", "req": 1, "body": {"state": "ok", "reason": None, "samples": 12}},
    {"type": "samples", "n": 17, "device": 0,
     "t_ns": [1_790_000_000_000_000_000, 1_790_000_000_020_000_000],
     "power_mw": [312_500, 698_020], "cum_uj": 2**40},
    {"type": "stage", "n": 2, "run_id": RUN, "run": "kd-1b", "stage_id": STAGE, "parent_id": "p",
     "stage": "train", "state": "final", "status": "ok", "t0_ns": 1_790_000_000_000_000_000,
     "t1_ns": 1_790_000_001_000_000_000, "counts": {"label": 4096}, "begin_uj": {0: 5, 1: 7},
     "energy_uj": {0: 512_345_678, 1: None}},
    {"type": "devices", "n": 1,
     "devices": [{"device": 0, "uuid": "GPU-1", "domain": "gpu", "source": "ring"}]},
    {"type": "health", "n": 60, "status": {"state": "degraded", "reason": "store: no space"}},
]  # fmt: skip


def main() -> None:
    """Write what is missing."""
    for meaning in MEANINGS:
        frame = GOLDEN / f"{meaning['type']}.bin"
        if not frame.exists():
            frame.write_bytes(msgpack.packb(meaning))
            text = pprint.pformat(meaning, width=100, sort_dicts=False, underscore_numbers=True)
            frame.with_suffix(".txt").write_text(text + "\n")


if __name__ == "__main__":
    main()
