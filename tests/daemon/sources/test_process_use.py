"""Is each process's use of a shared GPU read, and only there?"""

from __future__ import annotations

from energyd.sources import Condition, Event, PowerSamples, Share
from energyd_client.clock import now_ns

UUID = "GPU-fa4e0000-0000-4000-8000-{:012x}".format
BUSY = "busy 0 501 60 502 20\nbusy 1 601 90\n"


def shares(events: list[Event]) -> list[Share]:
    return [event for event in events if isinstance(event, Share)]


def test_use_is_read_once_a_second_on_gpus_that_processes_share_and_on_no_others(drive, fake_nvml):
    fake_nvml.control(f"devices 2\npids 0 501 502\npids 1 601\n{BUSY}")
    out = drive(seconds=3.2)
    found = shares(out.events)
    assert {(e.uuid, e.pid, e.sm_percent) for e in found} == {(UUID(0), 501, 60), (UUID(0), 502, 20)}
    conditions = [e for e in out.events if isinstance(e, Condition) and e.uuid == UUID(0)]
    stamps = sorted({e.t_ns for e in found})
    assert 2 <= len(stamps) <= len(conditions)
    assert len(found) == 2 * len(stamps)
    for t_ns in stamps:  # CLOCK_BOOTTIME, the driver's last step before a read
        assert min(abs(c.t_ns - t_ns) for c in conditions) < 200_000_000
    assert stamps[-1] < now_ns()


def test_use_is_read_from_when_a_second_process_comes_until_it_goes(drive, fake_nvml):
    fake_nvml.control(f"pids 0 501\n{BUSY}")
    out = drive(
        seconds=2.2, steps=[(1.5, f"pids 0 501 502\n{BUSY}"), (4.0, f"pids 0 501\n{BUSY}")], deadline_s=20
    )
    came, went = out.steps_ns
    stamps = [e.t_ns for e in shares(out.events)]
    assert stamps
    # The driver's step is 100 ms; what it has of the second before the first look is taken along.
    assert min(stamps) > came - 1_100_000_000
    assert max(stamps) <= went + 100_000_000


def test_rubbish_of_the_driver_is_dropped_and_a_refusal_is_asked_again(drive, fake_nvml):
    rubbish = "busy 0 501 60 502 37100 503 2147483632 0 10 4294967295 5\n"
    call = "nvmlDeviceGetProcessUtilization"
    fake_nvml.control(f"pids 0 501 502\nerror {call} 999\n{rubbish}")
    out = drive(seconds=2.5, steps=[(2.5, f"pids 0 501 502\n{rubbish}")])
    found = shares(out.events)
    assert {(e.pid, e.sm_percent) for e in found} == {(501, 60)}
    assert min(e.t_ns for e in found) > out.steps_ns[0] - 1_100_000_000


def test_a_driver_without_it_is_not_asked_again_and_power_goes_on(drive, fake_nvml):
    fake_nvml.control("pids 0 501 502\nerror nvmlDeviceGetProcessUtilization 3\n")
    out = drive(seconds=2.0, steps=[(2.5, f"pids 0 501 502\n{BUSY}")])
    assert shares(out.events) == []
    assert out.breaks(UUID(0)) == []
    assert any(isinstance(event, PowerSamples) for event in out.events)


def test_nobody_busy_on_a_shared_gpu_is_no_error(drive, fake_nvml):
    fake_nvml.control("pids 0 501 502\n")
    out = drive(seconds=2.0, steps=[(1.2, f"pids 0 501 502\n{BUSY}")])
    assert {e.pid for e in shares(out.events)} == {501, 502}
