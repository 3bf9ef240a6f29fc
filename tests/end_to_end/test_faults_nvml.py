"""Whatever NVML does wrong in mid-stage: is the stage's energy true, or NULL with a reason, never wrong?"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fake_nvml.build import SONAME, FakeNvml
from light_codecarbon.path import light
from real_daemon import Daemon, wait_for
from staged import Staged, status

MakeDaemon = Callable[..., Daemon]
CODES = (1, 3, 6, 9, 15, 16, 18, 999)
FORGETTING = (15, 16)  # a GPU that was away: its ring may mix old and new, and is not believed


def counted(daemon: Daemon, devices: int) -> Daemon:
    """The daemon, once it has a counter read of each device to bridge from."""
    wait_for(lambda: daemon.query("SELECT count(DISTINCT device) AS n FROM counters")[0]["n"] == devices)
    return daemon


def sampled_since(daemon: Daemon, t_ns: int) -> bool:
    """Whether every device has stored samples from after that store time."""
    return all((d["last_t_ns"] or 0) > t_ns for d in status(daemon)["devices"] if d["domain"] == "gpu")


def all_well_again(daemon: Daemon) -> None:
    now_ns = status(daemon)["now_ns"]
    wait_for(lambda: sampled_since(daemon, now_ns), 30)


def counted_since(daemon: Daemon, t_ns: int) -> bool:
    """Whether the counter was read after that store time: a stage's end needs another read than its begin."""
    newest = daemon.query("SELECT max(t_ns) AS t_ns FROM counters")[0]["t_ns"]
    return newest is not None and newest > t_ns


@pytest.mark.fault(
    "NVML errors, lost GPUs, driver reloads",
    seen="The GPU is named in `status`; a gap with its reason, bridged where the counter "
    "lived on. Other GPUs go on.",
    lost="Samples inside the gap; energy is NULL only where no counter can speak for it.",
)
def test_an_error_on_one_gpu_costs_no_joule_while_the_ring_lasts_then_a_bridged_gap_and_nothing_elsewhere(
    make_daemon: MakeDaemon, fake_nvml: FakeNvml
) -> None:
    """Device 0 is well; devices 1 to 8 refuse everything with one code each: for 1 s, then for 4 s."""
    nine = f"devices {len(CODES) + 1}\n"
    errors = nine + "".join(f"error * {code} device={d}\n" for d, code in enumerate(CODES, 1))
    fake_nvml.control(nine)
    daemon = counted(make_daemon(light(fake_nvml.env)).start(), len(CODES) + 1)
    stage = Staged(daemon, "short", "long")
    for seconds in (1.0, 4.0):
        time.sleep(0.7)
        fake_nvml.control(errors)
        time.sleep(seconds)
        fake_nvml.control(nine)
        all_well_again(daemon)
        stage.next() if seconds < 2 else stage.end()
    costs = stage.costs(fake_nvml)
    assert len(costs) == 2 * (len(CODES) + 1)
    assert {key: cost for key, cost in costs.items() if not cost.no_wrong_joule()} == {}
    # What these errors hide lasts in ring or counter, so here the energy is always known.
    assert {key: cost for key, cost in costs.items() if cost.error_j is None} == {}
    assert (costs["short", 0].reasons, costs["long", 0].reasons) == ([], [])
    for d, code in enumerate(CODES, 1):
        short, long = costs["short", d], costs["long", d]
        told = "no new power value" if code == 6 else f"(NVML {code} "
        assert bool(short.reasons) == (code in FORGETTING), short
        assert len(long.reasons) == 1, long
        assert long.reasons[0].startswith("lost: "), long
        assert told in long.reasons[0] or "NVML was shut down" in long.reasons[0], long
        assert "bridged" in long.row["flags"]
        assert 0 < long.row["coverage"] < 1
        assert ("bridged" in short.row["flags"]) == (code in FORGETTING)


@pytest.mark.fault("NVML errors, lost GPUs, driver reloads")
def test_a_library_that_refuses_everything_is_bridged_and_a_driver_that_begins_anew_is_not(
    make_daemon: MakeDaemon, fake_nvml_library: Path, tmp_path: Path
) -> None:
    codes = (1, 9, 18, 999)
    machines = []
    for code in codes:
        scratch = tmp_path / f"nvml{code}"
        scratch.mkdir()
        nvml = FakeNvml(fake_nvml_library, scratch)
        machines.append((make_daemon(light(nvml.env)), nvml, code))
    with ThreadPoolExecutor(len(codes)) as pool:  # most of it is waiting
        for done in [pool.submit(refused_then_reloaded, *machine) for machine in machines]:
            done.result()


def refused_then_reloaded(daemon: Daemon, nvml: FakeNvml, code: int) -> None:
    """First everything is refused and the driver lives on. Then it is loaded again, but for GPU 1 alone:
    GPU 0 shows that it is the counter's beginning anew, not the outage, that costs the energy."""
    nvml.control("devices 2\n")
    counted(daemon.start(), 2)
    stage = Staged(daemon, "refused", "reloaded")
    for reset in ("", "counter_reset device=1\n"):
        time.sleep(0.7)
        nvml.control(f"devices 2\nerror * {code}\n{reset}")
        time.sleep(3.2)
        if code == 18 and not reset:
            wait_for(lambda: gpu_domain(daemon)["state"] == "unreadable")
            assert "restart energyd" in gpu_domain(daemon)["reason"]
        nvml.control(f"devices 2\n{reset}")
        all_well_again(daemon)
        stage.end() if reset else stage.next()
    assert gpu_domain(daemon)["state"] == "measured"
    costs = stage.costs(nvml)
    assert {key: cost for key, cost in costs.items() if not cost.no_wrong_joule()} == {}, code
    for key in (("refused", 0), ("refused", 1), ("reloaded", 0)):
        assert len(costs[key].reasons) == 1, (code, costs[key])
        assert costs[key].reasons[0].startswith("lost: ")
        assert f"(NVML {code} " in costs[key].reasons[0]
        assert costs[key].error_j is not None
        assert "bridged" in costs[key].row["flags"]
    reloaded = costs["reloaded", 1]
    # 999 alone does not say that the driver went away.
    assert reloaded.reasons in (["driver_reload"], ["reset"][: code == 999]), code
    assert reloaded.row["energy_j"] is None
    assert reloaded.row["reason"]
    (total,) = daemon.query(f"FROM stage_totals WHERE run_id = '{stage.run_id}' AND stage = 'reloaded'")
    assert (total["gpu_j"], total["total_j"]) == (None, None)
    assert total["reason"].startswith("gpu: ")


def gpu_domain(daemon: Daemon) -> dict[str, str]:
    (found,) = [d for d in status(daemon)["domains"] if d["domain"] == "gpu"]
    return found


def without(folder: Path, *symbols: str) -> Path:
    """The fake library as a driver has it that does not know those calls."""
    folder.mkdir()
    hide = folder / "hide.map"
    hide.write_text("{ global: *; local: " + " ".join(f"{name};" for name in symbols) + " };")
    source = Path(__file__).parents[1] / "fake_nvml" / "fake_nvml.c"
    flags = ["-std=gnu11", "-O2", "-shared", "-fPIC", f"-Wl,-soname,{SONAME}", f"-Wl,--version-script={hide}"]
    subprocess.run(["gcc", *flags, "-o", folder / SONAME, source, "-lpthread"], check=True)
    return folder


@pytest.mark.fault("NVML errors, lost GPUs, driver reloads")
def test_a_driver_without_the_calls_for_ring_or_counter_falls_back_and_owns_to_what_it_cannot_know(
    make_daemon: MakeDaemon, fake_nvml: FakeNvml, tmp_path: Path
) -> None:
    ringless = without(tmp_path / "ringless", "nvmlDeviceGetSamples")
    counterless = without(
        tmp_path / "counterless",
        "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetMigMode",
    )  # fmt: skip
    daemons = [
        make_daemon(light({**fake_nvml.env, "LD_LIBRARY_PATH": str(folder)})).start()
        for folder in (ringless, counterless)
    ]
    counted(daemons[0], 1)  # a stage that begins before the first read has no counter beside its integral
    stages = [Staged(daemon, "calm", "torn") for daemon in daemons]
    time.sleep(3.0)
    for stage in stages:
        stage.next()
    time.sleep(0.5)
    fake_nvml.control("error nvmlDeviceGetSamples 999\nfield 186 999\n")
    time.sleep(3.5)
    fake_nvml.control("")
    back_ns = status(daemons[0])["now_ns"]
    wait_for(lambda: counted_since(daemons[0], back_ns), 30)
    for daemon, stage in zip(daemons, stages, strict=True):
        all_well_again(daemon)
        stage.end()
    polled, ring = (stage.costs(fake_nvml) for stage in stages)
    for name in ("calm", "torn"):
        assert polled[name, 0].row["source"] == "instant"
        # A value every 100 ms, of a curve whose flanks last 50.
        assert polled[name, 0].no_wrong_joule(share=0.1), polled
        assert polled[name, 0].error_j is not None
        assert polled[name, 0].row["counter_j"] is not None
        assert ring[name, 0].row["source"] == "ring"
        assert ring[name, 0].no_wrong_joule(), ring
        assert ring[name, 0].row["counter_j"] is None
    assert len(polled["torn", 0].reasons) == len(ring["torn", 0].reasons) == 1
    assert "bridged" in polled["torn", 0].row["flags"]
    assert ring["calm", 0].error_j is not None
    assert ring["torn", 0].row["energy_j"] is None
    assert ring["torn", 0].row["reason"] == "gap_without_counter"


@pytest.mark.fault("NVML errors, lost GPUs, driver reloads")
def test_glitches_resets_and_values_above_the_limit_are_what_they_are_and_leave_the_rest_alone(
    make_daemon: MakeDaemon, fake_nvml: FakeNvml
) -> None:
    fake_nvml.play([(0, 150_000), (400_000_000, 150_000), (420_000_000, 939_000), (800_000_000, 939_000),
                    (820_000_000, 150_000), (1_000_000_000, 150_000)])  # fmt: skip
    fake_nvml.control("devices 3\n")
    daemon = counted(make_daemon(light(fake_nvml.env)).start(), 3)
    stage = Staged(daemon)
    time.sleep(0.7)
    # Every seventh sample reads 0 W, every call is slow, and one counter begins again.
    fake_nvml.control("devices 3\nzero ring 7 device=1\ndelay_ms 30\ncounter_reset device=2\n")
    time.sleep(2.5)
    fake_nvml.control("devices 3\ncounter_reset device=2\n")
    all_well_again(daemon)
    stage.end()
    costs = stage.costs(fake_nvml)
    assert {key: cost for key, cost in costs.items() if not cost.no_wrong_joule()} == {}
    steady, glitched, reset = (costs["train", d] for d in range(3))
    for cost in (steady, glitched):
        assert cost.reasons == []
        assert cost.row["coverage"] == 1
        assert cost.error_j is not None
    assert glitched.row["n_samples"] < 0.95 * steady.row["n_samples"]
    # Its ring has every sample: only the counter's own figure is lost.
    assert reset.reasons == []
    assert reset.error_j is not None
    assert reset.row["counter_j"] is None
    assert steady.row["counter_j"] is not None
    powers = daemon.query(
        "SELECT max(power_mw) AS most, min(power_mw) AS least FROM samples"
        " WHERE device IN (SELECT device FROM devices WHERE domain = 'gpu')"
    )
    assert powers[0]["most"] == 939_000
    assert powers[0]["least"] >= 149_000
    limit = daemon.query("SELECT power_limit_mw FROM devices WHERE device = 0")
    assert limit == [{"power_limit_mw": 700_000}]


@pytest.mark.fault("NVML errors, lost GPUs, driver reloads")
def test_calls_slower_than_the_ring_is_deep_are_bridged_overruns_and_a_slow_counter_is_not_believed(
    make_daemon: MakeDaemon, fake_nvml: FakeNvml
) -> None:
    fake_nvml.control("devices 2\n")
    daemon = counted(make_daemon(light(fake_nvml.env)).start(), 2)
    stage = Staged(daemon, "ring", "counter")
    time.sleep(0.7)
    fake_nvml.control("devices 2\ndelay_ms 3500 nvmlDeviceGetSamples\n")
    time.sleep(0.7)
    fake_nvml.control("devices 2\n")  # the call under way takes its time
    wait_for(lambda: status(daemon)["gaps"] >= 2)
    stage.next()
    reads = "SELECT count(*) AS n FROM counters WHERE energy_mj IS NOT NULL"
    fake_nvml.control("devices 2\ndelay_ms 400 nvmlDeviceGetTotalEnergyConsumption\n")
    time.sleep(1.0)
    before = daemon.query(reads)
    time.sleep(2.0)
    assert daemon.query(reads) == before
    fake_nvml.control("devices 2\n")
    wait_for(lambda: daemon.query(reads) != before)
    stage.end()
    costs = stage.costs(fake_nvml)
    assert {key: cost for key, cost in costs.items() if not cost.no_wrong_joule()} == {}
    assert {key: cost for key, cost in costs.items() if cost.error_j is None} == {}
    slow = [reason for d in (0, 1) for reason in costs["ring", d].reasons]
    assert slow
    assert set(slow) == {"overrun"}
    assert [costs["counter", d].reasons for d in (0, 1)] == [[], []]
