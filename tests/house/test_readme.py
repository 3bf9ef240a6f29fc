"""Does the README name only what is there: commands, make targets, paths, environment variables?"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import click
import duckdb
import pytest

from energyd import config
from energyd.store import TABLES
from energyd.store.base import create_views, raw_view
from energyd_client import endpoints
from energyq.commands import cli as energyq_cli

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / name
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "ARCHITECTURE.md",
        "docs/measurement.md",
        "docs/comparison.md",
        "docs/protocol.md",
        "docs/fleet.md",
    )
]
SHELLS = ("", "sh", "bash", "console", "shell")
FOLDERS = "client|daemon|pipelines|analysis|systemd|deploy|examples|tests|docs"


def words(page: Path) -> str:
    return page.read_text()


def code(page: Path) -> str:
    """What the page shows as something to type: code blocks and `code`."""
    text = re.sub(r"<!-- demo begin.*?demo end -->", "", words(page), flags=re.DOTALL)  # printed, not typed
    blocks = [b for lang, b in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL) if lang in SHELLS]
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", text)])


def commands(main: click.Command) -> set[str]:
    return set(main.commands) if isinstance(main, click.Group) else set()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./*-]*[\w/*]", words(page)))
    named |= set(re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", words(page)))
    missing = [p for p in named if not any(ROOT.glob(p.rstrip("/"))) and not (page.parent / p).exists()]
    assert sorted(missing) == []


def test_a_page_of_the_readme_leads_from_the_service_over_a_tagged_program_to_a_query_and_the_view() -> None:
    page = words(ROOT / "README.md").partition("\n## On your machine\n")[2].partition("\n## ")[0]
    wanted = ("energyd install-service --now", "with run.stage(", "energyd top", 'energyq "SELECT')
    places = [page.find(each) for each in wanted]
    assert min(places) >= 0, dict(zip(wanted, places, strict=True))
    assert page[: max(places)].count("\n") <= 60  # lines of a printed page


def test_every_test_that_the_promise_names_is_there() -> None:
    promise = words(ROOT / "README.md").partition("## What it promises")[2].partition("\n## ")[0]
    named = re.findall(r"\[([a-z0-9 ]+)\]\((tests/[\w/]+\.py)\)", promise)
    assert len(named) >= 5
    for test, path in named:
        assert f"def test_{test.replace(' ', '_')}(" in (ROOT / path).read_text(), test


def test_the_readmes_errors_of_tools_are_those_of_the_report() -> None:
    report = words(ROOT / "docs" / "results" / "accuracy-h100.md").partition("## Bursty loads")[2]
    reported = [float(x) for x in re.findall(r"(\d+\.\d+) %", report.partition("## Real")[0])]
    table = re.search(r"\| \| 5 s \| 10 s \|\n(.*?)\n\n", words(ROOT / "README.md"), re.DOTALL)
    assert table is not None
    told = re.findall(r"(\d+(?:\.(\d+))?) %", table[1])
    assert len(told) == 8
    for text, decimals in told:
        assert any(f"{x:.{len(decimals)}f}" == text for x in reported), text


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", code(page))) - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_environment_variable_that_a_page_names_exists(page: Path) -> None:
    named = {**vars(endpoints), **vars(config)}
    known = {value for name, value in named.items() if name.startswith("ENV_")}
    assert set(re.findall(r"\bENERGYD_[A-Z_]+\b", words(page))) - known == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
@pytest.mark.parametrize("program", ["energyd", "energyq"])
def test_every_command_that_a_page_names_exists(page: Path, program: str) -> None:
    main = importlib.import_module("energyd.cli").main if program == "energyd" else energyq_cli
    if program == "energyd":
        named = set(re.findall(r"(?m)(?:^|[\s$;&|(])energyd ((?:[a-z][a-z-]*\|)*[a-z][a-z-]*)\b", code(page)))
        named = {one for some in named for one in some.split("|")}
        assert named - commands(main) == set()
    else:
        # `energyq "SQL"`, options, or a command; a bare word that is no command would be run as SQL.
        named = set(re.findall(r"(?m)(?:^|[\s$;&|(])energyq (?:--store \S+ )?([a-z][a-z-]*)\b", code(page)))
        assert named - commands(main) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_option_of_a_command_line_exists(page: Path) -> None:
    for line in code(page).splitlines():
        found = re.search(r"(?:^|[\s$])energyd ([a-z][a-z-]*)\b(.*)", line)
        if not found:
            continue
        main = __import__("energyd.cli", fromlist=["main"]).main
        command = main.commands.get(found[1])
        if command is None:
            continue
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        mine = found[2].split(" -- ")[0].split(" #")[0]  # what follows is another program's
        assert set(re.findall(r"(?<!\S)--[a-z-]+", mine)) - options == set(), line


def test_each_view_and_column_that_the_readme_sends_one_to_is_there() -> None:
    table = words(ROOT / "README.md").partition("| looked for |")[2].partition("\n\n")[0]
    sent = [part for row in table.splitlines()[2:] for part in row.split("|")[2].split(";")]
    with duckdb.connect() as con:
        for name in TABLES:
            con.execute(raw_view(name, []))
        create_views(con)
        for view, _, columns in (part.partition(":") for part in sent):
            con.execute(f"SELECT {columns.replace('`', '')} FROM {view.replace('`', '')}")
    assert len(sent) == 10
