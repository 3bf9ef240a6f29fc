"""What does the live view look like, for a terminal of a given size?

`screen(state, …)` is a pure function of what is known and of the room there is: the same state drawn at
80x24 and 160x50 differs in columns and height of the curves only. Colours say the domain; everything
also says it in words, so that nothing is lost without them.
"""

from __future__ import annotations

import time
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from energyd.top_cost import Cost, cost_of
from energyd.top_look import J_PER_KWH, PLAIN, Look, rank
from energyd.top_state import Device, Stage, TopState
from energyd.top_table import Column, Grid
from energyd.top_text import DASH, amount, count, counts, duration, joules, mark, per_token, power_now, watts

BARS: Final = " ▁▂▃▄▅▆▇█"
COLOURS: Final = {"gpu": "green", "cpu": "cyan", "dram": "magenta"}
WIDE: Final = 110
WIDEST: Final = 150
LEGEND: Final = {"est": "estimated by a model", "replay": "a recorded trace", "sim": "simulated"}


def curve(values_mw: list[float | None], height: int, top_mw: float) -> list[str]:
    """A bar chart in `height` rows of eighth blocks, from 0 to `top_mw`; a hole is a `·` at the bottom."""
    rows = []
    for row in range(height - 1, -1, -1):
        cells = []
        for value in values_mw:
            if value is None:
                cells.append("·" if row == 0 else " ")
                continue
            eighths = round(value / top_mw * height * 8) if top_mw > 0 else 0
            if row == 0:
                eighths = max(1, eighths)  # a sample of 0 W still differs from none
            cells.append(BARS[min(8, max(0, eighths - row * 8))])
        rows.append("".join(cells))
    return rows


def screen(
    state: TopState, local_ns: int, wall_s: float, width: int, height: int, hint: str = "",
    look: Look = PLAIN, frozen: bool = False,
) -> tuple[RenderableType, Text]:  # fmt: skip
    """The view's body, at most `height` - 1 rows of `width` cells, and the line for the last row."""
    notes = _notes(state)
    rows = _chart_rows(state, height)
    used = 5 + max(1, sum(rows.values())) + len(notes)  # header, two blanks, head of devices, foot
    body = Group(
        _header(state, local_ns, wall_s, width, hint, frozen),
        _watched(state, local_ns, look),
        _devices(state, local_ns, width, rows),
        *notes,
        Text(),
        _stages(state, local_ns, width, max(3, height - used), look),
    )
    return body, _footer(state)


def _header(state: TopState, local_ns: int, wall_s: float, width: int, hint: str, frozen: bool) -> Text:
    status = state.status or {}
    left = Text.assemble(("energyd", "bold"), f" {status.get('version', '')}  ")
    silent_s = state.silent_s(local_ns)
    if silent_s is not None:
        left.append(f"silent for {duration(silent_s)}", "bold red")
    elif not status:
        left.append("listening …", "dim")
    elif status.get("state") == "ok":
        left.append("ok", "green")
    else:
        left.append(f"{status.get('state')}: {status.get('reason')}", "bold yellow")
    power_w = state.power_w(local_ns)
    if power_w is not None:
        left.append("   now ")
        left.append(watts(power_w), "bold")
    store = f"{status.get('store', '')}   " if width >= WIDE else ""
    right = Text(f"{store}{time.strftime('%H:%M:%S', time.localtime(wall_s))}", "dim")
    if frozen:
        right.append(" FROZEN", "bold yellow not dim")
    right.append(hint)
    grid = Grid([Column("", max(1, width - right.cell_len - 2), right=False), Column("", right.cell_len)], 2)
    grid.add(left, right)
    return grid.rows[0]


def _watched(state: TopState, local_ns: int, look: Look) -> Text:
    """What GPU and CPU have taken since the view began, in every coin that is told."""
    text = Text(style="dim", no_wrap=True, overflow="ellipsis")
    energy_j = state.watched_j()
    if energy_j is None:
        return text
    text.append(f"watched {duration(state.watched_s(local_ns))}: {joules(energy_j)}")
    text.append(f" = {amount(energy_j / J_PER_KWH)} kWh")
    if look.rates.carbon_g is not None:
        text.append(f" · {amount(look.rates.co2e_g(energy_j))} gCO2e")
    if look.rates.price is not None:
        text.append(f" · {amount(look.rates.cost(energy_j))} {look.rates.currency}".rstrip())
    return text


def _chart_rows(state: TopState, height: int) -> dict[int, int]:
    """Rows of each device's curve: one on a small terminal, up to four where half the height allows.

    The tall ones go to the GPUs where there are any; a CPU beside them keeps one row.
    """
    gpus = [d for d, device in state.devices.items() if device.domain == "gpu"]
    tall = gpus or list(state.devices)
    rows = max(1, min(4, (height - 12) // 2 // max(1, len(tall)))) if height >= 34 else 1
    return {d: rows if d in tall else 1 for d in state.devices}


def _devices(state: TopState, local_ns: int, width: int, rows: dict[int, int]) -> RenderableType:
    if not state.devices:
        return Text("no device heard of yet" if state.status is None else "no device", "dim")
    name_width, limit_width = (24, 14) if width >= WIDE else (14, 10)
    columns = max(10, width - (6 + name_width) - 8 - limit_width - 16 - 4 * _gap(width))
    grid = Grid(
        [Column("DEVICE", 6 + name_width, right=False), Column("POWER", 8),
         Column("LAST 60 s", columns, right=False), Column("LIMIT", limit_width),
         Column("SOURCE", 16, right=False)],
        _gap(width),
    )  # fmt: skip
    grid.heads()
    now_ns = state.now_ns(local_ns)
    curves: dict[int, list[float | None]] = {}
    top_mw: dict[str, float] = {}  # one scale per domain, so that its devices can be compared
    for device in state.devices.values():
        live = power_now(device, local_ns)[1] is None
        end_ns = device.last_t_ns if live and device.last_t_ns is not None else now_ns
        curves[device.device] = device.history.curve_mw(columns, end_ns, device.max_step_ns)
        peak_mw = max((v for v in curves[device.device] if v is not None), default=0.0)
        top_mw[device.domain] = max(peak_mw, top_mw.get(device.domain, 0.0))
    for device in state.devices.values():
        chart = curve(curves[device.device], rows[device.device], top_mw[device.domain])
        grid.add(*_device_cells(device, local_ns, chart, width))
    return Group(*grid.rows)


def _device_cells(device: Device, local_ns: int, chart: list[str], width: int) -> list[Text]:
    colour = COLOURS.get(device.domain, "white")
    power_w, reason = power_now(device, local_ns)
    model = device.name if width >= WIDE else device.name.removeprefix("NVIDIA ")
    limit = Text(DASH, "dim")
    if device.power_limit_mw:
        between = " of " if width >= WIDE else "/"
        share = "" if power_w is None else f"{power_w * 1e5 / device.power_limit_mw:.0f} %{between}"
        limit = Text(f"{share}{device.power_limit_mw / 1000:.0f} W")
    source = Text(device.source)
    if mark(device):
        source.append(f" ({mark(device)})", "yellow")
    return [
        Text.assemble((f"{device.label:<5} ", f"bold {colour}"), (model, "")),
        Text(watts(power_w), "bold"),
        Text("\n".join(chart), colour) if reason is None else Text(reason, "red"),
        limit,
        source,
    ]


def _notes(state: TopState) -> list[Text]:
    """Why a domain is missing, and what the marks mean."""
    notes = []
    for domain in state.domains():
        if domain["state"] in {"absent", "unreadable"}:
            style = "dim" if domain["state"] == "absent" else "yellow"
            reason = f": {domain['reason']}" if domain.get("reason") else ""
            text = Text.assemble((f"{domain['domain']:<5} ", "bold dim"), (f"{DASH} ", ""))
            text.append(f"{domain['state']}{reason}", style)
            text.no_wrap, text.overflow = True, "ellipsis"
            notes.append(text)
    marks = {mark(d) for d in state.devices.values()} - {""}
    if marks:
        notes.append(Text("; ".join(f"{m} = {LEGEND[m]}" for m in sorted(marks)), "dim", no_wrap=True))
    return notes


def _stages(state: TopState, local_ns: int, width: int, height: int, look: Look) -> RenderableType:
    wide = width >= WIDE
    coins = _coins(look) if width >= WIDEST else []
    domains = [d for d in ("gpu", "cpu", "dram") if any(x.domain == d for x in state.devices.values())]
    if not wide and "dram" in domains:
        domains.remove("dram")
    by = rank(look, state, local_ns)
    opened, finished = list(state.open_tree(by)), state.finished(by)
    names = [len(s.word.stage) + 3 * len(place) for s, place in opened]
    names += [len(state.path(s)) + 2 for s in finished]
    grid = Grid(_stage_columns(state, width, domains, coins, max([0, *names])), _gap(width))
    grid.heads()
    # The finished keep a third of the room if they need it; open stages have the first claim on the rest.
    room = height - 1 - (2 if finished else 0)
    wanted = len(opened) + len({s.word.run_id for s, _ in opened})
    for_finished = min(len(finished), max(room // 3, room - wanted))
    left = room - for_finished
    run_id = None
    if not opened:
        grid.add(Text("no open stage", "dim"))
    for i, (stage, place) in enumerate(opened):
        new_run = stage.word.run_id != run_id
        if left < (2 if new_run else 1) or (left == 1 and i < len(opened) - 1):
            grid.add(Text(f"… {len(opened) - i} more open", "dim"))
            break
        if new_run:
            run_id = stage.word.run_id
            grid.add(Text.assemble((stage.word.run, "bold"), (f"  {run_id}", "dim")))
            left -= 1
        name = Text.assemble((_branches(place), "dim"), stage.word.stage)
        grid.add(name, *_stage_cells(state, stage, local_ns, domains, wide, coins, look))
        left -= 1
    if finished and for_finished > 0:
        grid.add(Text())
        grid.add(Text("FINISHED", "bold dim"))
        for stage in finished[:for_finished]:
            bad = stage.word.status not in {"ok", None}
            name = Text.assemble(("✗ " if bad else "✓ ", "red" if bad else "green"))
            name.append(state.path(stage) + (f" ({stage.word.status})" if bad else ""))
            grid.add(name, *_stage_cells(state, stage, local_ns, domains, wide, coins, look))
    return Group(*grid.rows)


def _stage_columns(
    state: TopState, width: int, domains: list[str], coins: list[str], longest: int
) -> list[Column]:
    """The columns of the stages; on a wide terminal numbers are kept near their names."""
    wide = width >= WIDE
    columns = [Column("TIME", 7)]
    for domain in domains:
        marks = {mark(d) for d in state.devices.values() if d.domain == domain} - {""}
        head = f"{domain.upper()}{' ' + min(marks) if marks else ''}"
        columns.append(Column(head, 10 if marks else 8, style=COLOURS[domain]))
    columns.append(Column("TOTAL", 8, style="bold"))
    if wide:
        columns += [Column("MEAN", 8), Column("PER SECOND", 10)]
    columns += [Column(coin, 8) for coin in coins]
    columns += [Column("TOKENS", 7), Column("J/TOKEN", 22 if wide else 15)]
    left = width - sum(column.width + _gap(width) for column in columns)
    return [
        Column("STAGE", max(10, min(left, 60, max(32, longest)) if wide else left), right=False),
        *columns,
    ]


def _branches(place: tuple[bool, ...]) -> str:
    if len(place) == 1:
        return "└─ " if place[0] else "├─ "
    stems = "".join("   " if last else "│  " for last in place[:-1])
    return stems + ("└─ " if place[-1] else "├─ ")


def _coins(look: Look) -> list[str]:
    """Heads of the columns that tell a stage's joules once more."""
    coins = ["KWH"]
    if look.rates.carbon_g is not None:
        coins.append("GCO2E")
    if look.rates.price is not None:
        coins.append(look.rates.currency or "COST")
    return coins


def _stage_cells(
    state: TopState, stage: Stage, local_ns: int, domains: list[str], wide: bool, coins: list[str], look: Look
) -> list[Text]:
    cost: Cost = cost_of(state, stage, local_ns)
    cells = [Text(duration(cost.seconds))]
    cells += [Text(joules(cost.joules.get(d))) for d in domains]
    pending = stage.word.state == "ended"
    cells.append(Text("pending", "dim") if pending else Text(joules(cost.total_j)))
    unit = cost.unit()
    if wide:
        cells.append(Text(watts(cost.mean_w())))
        rate = cost.counts[unit] / cost.seconds if unit and cost.seconds > 0 and cost.complete else None
        cells.append(Text(DASH if rate is None else count(round(rate))))
    kwh = None if cost.total_j is None else cost.total_j / J_PER_KWH
    told = {"KWH": kwh, "GCO2E": look.rates.co2e_g(cost.total_j)}
    cells += [Text(amount(told.get(coin, look.rates.cost(cost.total_j)))) for coin in coins]
    cells += [Text(counts(cost)), Text(per_token(cost))]
    return cells


def _footer(state: TopState) -> Text:
    status = state.status
    if status is None:
        return Text("no health word from the daemon yet", "dim", no_wrap=True, overflow="ellipsis")
    late = status.get("late_ms_p99")
    foot = Text(style="dim", no_wrap=True, overflow="ellipsis")
    foot.append(f"sampler late p99 {DASH if late is None else f'{late:.1f} ms'}")
    clients, gaps = status.get("clients"), status.get("gaps")
    foot.append(f" · {status.get('waiting', DASH)} waiting · ")
    foot.append(f"{DASH if clients is None else clients} client{'' if clients == 1 else 's'}")
    foot.append(" · ")
    words = f"{DASH if gaps is None else gaps} gap{'' if gaps == 1 else 's'}"
    foot.append(words, "yellow not dim" if gaps else "")
    foot.append(" · ")
    foot.append(f"{state.lost} lost", "yellow not dim" if state.lost else "")
    if status.get("refused"):
        foot.append(" · ")
        foot.append(f"{status['refused']} refused", "yellow not dim")
    if status.get("turned_away"):
        foot.append(" · ")
        foot.append(f"{status['turned_away']} turned away", "yellow not dim")
    if status.get("exhausted"):
        foot.append(" · the trace has ended", "yellow not dim")
    return foot


def _gap(width: int) -> int:
    """Blanks between columns."""
    return 2 if width >= WIDE else 1
