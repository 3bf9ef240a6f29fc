"""Do Prometheus and OpenTelemetry read from a daemon what it stores?"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from energyd.config import ConfigError, resolve
from energyd.exporters import Exports, address
from energyd.exporters.feed import Feed
from energyd.exporters.figures import MAX_STAGES, OTHER, Figures
from energyd.exporters.otlp import CUMULATIVE, Pusher, metrics
from energyd.exporters.prometheus import exposition
from energyd_client import protocol as p
from real_daemon import Daemon, wait_for

ROOT = Path(__file__).parents[2]
STAGES = """
with energy.run("r") as run:
    with run.stage('train "1"\\n') as stage:
        time.sleep(0.3)
        stage.count(label=7)
    with run.stage("evaluate"):
        time.sleep(0.2)
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path, {})
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def page(port: int) -> str | None:
    """The page, or None while there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 503:
            raise
    except OSError:
        pass  # not bound yet
    return None


def values(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """{sample name: {labels: value}}, read by Prometheus's own Python parser."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        assert family.type in ("counter", "gauge"), family
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def status(**more: Any) -> dict[str, Any]:
    """A health word."""
    gpu = {
        "device": 0, "uuid": "GPU-0", "domain": "gpu", "name": "H100", "source": "ring", "origin": "measured",
        "period_ns": 20_000_000, "max_step_ns": 100_000_000, "power_limit_mw": 700_000,
        "last_t_ns": 99_000_000_000, "power_mw": 400_000, "cum_uj": 5_000_000,
    }  # fmt: skip
    return {
        "state": "ok", "version": "1", "now_ns": 100_000_000_000, "started_ns": 1_000_000_000,
        "devices": [gpu], "domains": [{"domain": "gpu", "state": "measured", "source": "nvml"}],
        "samples": 1, "gap_reasons": {}, "store_errors": 0, "markers": 0, "refused": 0, "turned_away": 0,
        "open_stages": 0, "clients": 0, "late_ms_p99": None, "commit_ms": None, **more,
    }  # fmt: skip


def final(n: int, name: str, energy_uj: int | None = 1_000_000) -> p.StageState:
    counts, joules = {name: 1}, {0: energy_uj}
    return p.StageState(1, "r", "r", f"s{n}", None, name, "final", "ok", 0, 10**9, counts, {}, joules)


def heard(*messages: p.Message) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    figures = Figures()
    for message in messages:
        figures.take(message)
    return values(exposition(figures.families()))


def test_prometheus_reads_the_joules_that_the_store_holds(daemon: Daemon) -> None:
    port = free_port()
    daemon.start("--metrics", f"127.0.0.1:{port}", source="simulated")
    daemon.finish(STAGES)
    text = wait_for(lambda: (t := page(port)) and t.count("energyd_stages_total{") == 2 and t)
    found = values(text)
    rows = daemon.query("SELECT stage, domain, sum(energy_j) AS j FROM stage_energy GROUP BY ALL")
    stored = {(("domain", r["domain"]), ("stage", r["stage"])): pytest.approx(r["j"]) for r in rows}
    assert found["energyd_stage_energy_joules_total"] == stored
    assert len(stored) == 4  # names with quotes and line ends survive
    assert found["energyd_stage_units_total"] == {(("stage", 'train "1"\n'), ("unit", "label")): 7}
    devices = {d["uuid"]: d for d in daemon.status()["devices"]}
    gpus = {dict(labels)["uuid"] for labels in found["energyd_gpu_energy_joules_total"]}
    assert gpus == {u for u, d in devices.items() if d["domain"] == "gpu"}
    assert all(("origin", "simulated") in labels for labels in found["energyd_gpu_power_watts"])
    assert set(found["energyd_source_up"].values()) == {1}
    daemon.stop()


def test_every_metric_of_the_dashboard_is_exported() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "energyd.json").read_text())
    asked = {t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", [])}
    asked |= {v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"}
    named = {name for expr in asked for name in re.findall(r"\benergyd_\w+", expr)}
    others = [{**status()["devices"][0], "device": i, "domain": d} for i, d in enumerate(("cpu", "dram"), 1)]
    full = status(
        devices=[*status()["devices"], *others], gap_reasons={"x": 1}, late_ms_p99=1.0, commit_ms=1.0
    )
    exported = set(heard(p.Health(1, full), final(1, "a"), final(2, "a", None)))
    assert named - exported == set()
    assert len(named) >= 10


def test_what_is_not_known_is_left_out_and_never_zero() -> None:
    never = {**status()["devices"][0], "last_t_ns": None, "power_mw": None, "cum_uj": None}
    found = heard(p.Health(1, status(devices=[never])), final(1, "a", None))
    assert "energyd_gpu_power_watts" not in found
    assert "energyd_gpu_energy_joules_total" not in found
    assert "energyd_stage_energy_joules_total" not in found
    assert found["energyd_stage_energy_unknown_total"] == {(("domain", "gpu"), ("stage", "a")): 1}
    assert set(found["energyd_source_up"].values()) == {0}


def test_the_power_of_a_silent_device_is_no_longer_told_and_its_energy_stays() -> None:
    late = status(now_ns=105_000_000_000)
    found = heard(p.Health(1, late))
    assert "energyd_gpu_power_watts" not in found
    assert list(found["energyd_gpu_energy_joules_total"].values()) == [5]
    assert set(found["energyd_source_up"].values()) == {0}


def test_however_many_names_programs_think_of_the_page_stays_short_and_loses_no_joule() -> None:
    n = 3 * MAX_STAGES
    found = heard(p.Health(1, status()), *(final(i, f"epoch {i}") for i in range(n)))
    stages = found["energyd_stage_energy_joules_total"]
    assert len(stages) == MAX_STAGES + 1
    assert sum(stages.values()) == n
    assert stages[("domain", "gpu"), ("stage", OTHER)] == n - MAX_STAGES
    assert len(found["energyd_stage_units_total"]) <= MAX_STAGES + 21


def test_the_page_says_nothing_before_the_daemon_does() -> None:
    assert Figures().families() == []


def test_who_stalls_on_the_page_holds_up_neither_daemon_nor_the_next_reader(daemon: Daemon) -> None:
    port = free_port()
    daemon.start("--metrics", f"127.0.0.1:{port}", source="simulated")
    wait_for(lambda: page(port))
    with (
        socket.create_connection(("127.0.0.1", port)) as silent,
        socket.create_connection(("127.0.0.1", port)) as half,
    ):
        half.sendall(b"GET /metrics HTTP/1.0\r\nX: ")
        before = daemon.status()["samples"]
        wait_for(lambda: daemon.status()["samples"] > before)
        assert wait_for(lambda: page(port))
        silent.close()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/secrets", timeout=10)
    refused.value.close()
    assert refused.value.code == 404
    daemon.stop()


def test_who_sends_a_byte_now_and_then_holds_up_neither_the_next_reader_nor_the_stop(daemon: Daemon) -> None:
    port = free_port()
    daemon.start("--metrics", f"127.0.0.1:{port}", source="simulated")
    wait_for(lambda: page(port))
    over = threading.Event()
    slow = socket.create_connection(("127.0.0.1", port))
    slow.sendall(b"GET /metrics HTTP/1.0\r\nX: ")

    def drip() -> None:
        while not over.wait(0.2):
            try:
                slow.sendall(b"x")
            except OSError:
                return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        assert wait_for(lambda: page(port))
        assert daemon.stop() == 0  # waits for 30 s at most
    finally:
        over.set()
        thread.join()
        slow.close()


def test_a_gap_is_counted_under_its_reason(daemon: Daemon) -> None:
    port = free_port()
    daemon.start(source="simulated")
    wait_for(lambda: daemon.status()["samples"])
    daemon.stop()  # stores them: a gap lies between samples that are there
    daemon.start("--metrics", f"127.0.0.1:{port}", source="simulated")
    gaps = wait_for(lambda: (t := page(port)) and values(t).get("energyd_sample_gaps_total"))
    assert gaps == {(("reason", "daemon_down"),): len(daemon.status()["devices"])}
    daemon.stop()


def test_a_start_whose_metrics_address_is_taken_says_so_and_leaves_78(daemon: Daemon) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        out = daemon.run(
            "energyd", "start", "--store", str(daemon.store), "--source", "simulated", "--metrics", address
        )
    assert out.returncode == 78
    assert "cannot serve metrics" in out.stderr
    assert "cure" in out.stderr


@pytest.mark.parametrize("wrong", ["9477", "localhost", "localhost:x", "[::1", "h:99999", ":1"])
def test_an_address_that_cannot_be_read_is_refused(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--metrics {re.escape(wrong)}"):
        Exports(resolve(store=tmp_path, metrics=wrong))


def test_addresses_come_from_the_flag_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (resolve(store=tmp_path).metrics, resolve(store=tmp_path).otlp) == (None, None)
    monkeypatch.setenv("ENERGYD_METRICS", "127.0.0.1:1")
    monkeypatch.setenv("ENERGYD_OTLP", "http://c:4318")
    config = resolve(store=tmp_path)
    assert (config.metrics, config.otlp) == ("127.0.0.1:1", "http://c:4318")
    assert resolve(store=tmp_path, metrics="[::1]:9477").metrics == "[::1]:9477"
    assert address("[::1]:9477") == ("::1", 9477)
    with pytest.raises(ConfigError, match="--otlp"):
        Exports(resolve(store=tmp_path, otlp="c:4318"))


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportMetricsServiceRequest]]]:
    """A collector that reads OTLP as OpenTelemetry's own classes define it: its URL, what came."""
    got: list[ExportMetricsServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            good = self.path == "/v1/metrics" and self.headers["Content-Type"] == "application/json"
            if good:
                got.append(json_format.Parse(body, ExportMetricsServiceRequest()))
            self.send_response(200 if good else 400)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", got
        server.shutdown()
        thread.join()


def test_a_collector_gets_hw_energy_by_opentelemetrys_own_schema(
    collector: tuple[str, list[ExportMetricsServiceRequest]], daemon: Daemon
) -> None:
    url, got = collector
    daemon.start("--otlp", url, source="simulated")
    wait_for(lambda: got)  # the first push comes on its own
    daemon.finish(STAGES)
    wait_for(lambda: daemon.query("SELECT count(*) n FROM stages WHERE state = 'final'")[0]["n"] == 2)
    assert daemon.stop() == 0  # and a last one at the end
    (of_daemon,) = got[-1].resource_metrics
    assert {"service.name", "host.name"} <= {a.key for a in of_daemon.resource.attributes}
    metrics = {m.name: m for m in of_daemon.scope_metrics[0].metrics}
    energy = metrics["hw.energy"].sum
    assert energy.is_monotonic
    assert energy.aggregation_temporality == CUMULATIVE
    for point in energy.data_points:
        about = {a.key: a.value.string_value for a in point.attributes}
        assert about["hw.type"] in ("gpu", "cpu")
        assert about["hw.id"].startswith("simulated:")
        assert about["energyd.origin"] == "simulated"
        assert point.as_double > 0
        assert point.start_time_unix_nano < point.time_unix_nano
    points = metrics["energyd.stage.energy"].sum.data_points
    stages = {a.value.string_value for point in points for a in point.attributes}
    assert {"evaluate", 'train "1"\n'} <= stages


def test_energy_by_otlp_counts_from_its_first_word_and_silent_power_is_left_out() -> None:
    figures, began = Figures(), {}
    figures.take(p.Health(1, status()))
    first = json_format.ParseDict(metrics(figures, began), ExportMetricsServiceRequest())
    later = {**status()["devices"][0], "cum_uj": 7_500_000}
    figures.take(p.Health(2, status(devices=[later], now_ns=109_000_000_000)))
    second = json_format.ParseDict(metrics(figures, began), ExportMetricsServiceRequest())
    of_first, of_second = (
        {m.name: m for m in r.resource_metrics[0].scope_metrics[0].metrics} for r in (first, second)
    )
    assert {name: m.unit for name, m in of_first.items()} == {"hw.energy": "J", "hw.power": "W"}
    assert of_first["hw.power"].gauge.data_points[0].as_double == 400
    assert of_first["hw.energy"].sum.data_points[0].as_double == 0
    (point,) = of_second["hw.energy"].sum.data_points
    assert point.as_double == 2.5
    assert (point.start_time_unix_nano, point.time_unix_nano) == (100_000_000_000, 109_000_000_000)
    assert "hw.power" not in of_second


def test_a_collector_that_is_away_costs_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    feed = Feed("ipc:///nowhere")
    feed.figures.take(p.Health(1, status()))
    feed.families = feed.figures.families  # type: ignore[method-assign]  # as if just heard
    pusher = Pusher(f"http://127.0.0.1:{free_port()}", feed)
    for _ in range(3):
        pusher.push()
    assert caplog.text.count("does not take the figures") == 1


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[tuple[Daemon, int, str]]:
    """A daemon, its page's port and the URL of a Prometheus that reads it once a second."""
    port, web = free_port(), free_port()
    daemon = Daemon(tmp_path, {}).start("--metrics", f"127.0.0.1:{port}", source="simulated")
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: energyd, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
    )
    with (tmp_path / "prometheus.log").open("wb") as log:
        server = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
             f"--web.listen-address=127.0.0.1:{web}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield daemon, port, f"http://127.0.0.1:{web}"
    finally:
        server.terminate()
        server.wait(timeout=30)
        daemon.kill()


def ask(url: str, query: str) -> list[dict[str, Any]]:
    """The vector that a query comes to; [] as long as Prometheus does not answer."""
    try:
        asked = f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(asked, timeout=10) as answer:
            body = json.load(answer)
    except ConnectionError:
        return []
    except urllib.error.URLError as error:
        if isinstance(error, urllib.error.HTTPError):
            raise AssertionError(f"{query}: {error.read().decode()}") from None
        return []
    assert body["status"] == "success", query
    found: list[dict[str, Any]] = body["data"]["result"]
    return found


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("prometheus"), reason="no prometheus here (apt install prometheus)")
def test_a_real_prometheus_lints_stores_and_answers_what_the_dashboard_asks(
    scraped: tuple[Daemon, int, str],
) -> None:
    daemon, port, url = scraped
    wait_for(lambda: ask(url, "up == 1"), timeout_s=60)
    wait_for(lambda: ask(url, "energyd_build_info"))
    daemon.finish(STAGES)
    text = wait_for(lambda: (t := page(port)) and t.count("energyd_stages_total{") == 2 and t)
    linted = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")
    wait_for(lambda: ask(url, 'energyd_stage_energy_joules_total{stage="evaluate"}'))
    # The counter's own two ends are exact in Prometheus; what it extrapolates (increase) is not asked here.
    for row in wait_for(lambda: ask(url, "energyd_gpu_energy_joules_total")):
        uuid, t_s, joules = row["metric"]["uuid"], row["value"][0], float(row["value"][1])
        ours = daemon.query(
            f"SELECT min(cum_uj) / 1e6 AS low, max(cum_uj) / 1e6 AS high FROM samples JOIN devices"
            f" USING (device) WHERE uuid = '{uuid}' AND samples.t_ns BETWEEN {int((t_s - 10) * 1e9)}"
            f" AND {int((t_s + 1) * 1e9)}"
        )[0]
        assert ours["low"] <= joules <= ours["high"]
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "energyd.json").read_text())
    asked = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    for variable, value in (("$instance", ".*"), ("$__rate_interval", "20s"), ("$__range", "5m")):
        asked = [query.replace(variable, value) for query in asked]
    assert not any("$" in query for query in asked)
    answered = [query for query in asked if ask(url, query)]  # none is malformed
    # Machines without dram, gaps or refusals have no such series; power and sources are always there.
    assert any("energyd_gpu_power_watts" in query for query in answered)
    assert any("rate(energyd_gpu_energy_joules_total" in query for query in answered)
    assert any("energyd_source_up" in query for query in answered)
