"""Does each package keep to its room: typed, light, and importing only what it may?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "energyd_client": "client", "energyd": "daemon", "energyd_pipelines": "pipelines", "energyq": "analysis",
}  # fmt: skip


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts on the sources in `folder` and nothing that is installed."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(str(folder / home) for home in PACKAGES.values())}
    program = "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages and their configuration, to be spoilt."""
    for package, home in PACKAGES.items():
        shutil.copytree(ROOT / home / package, tmp_path / home / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed_and_its_first_line_is_a_question(package: str) -> None:
    folder = ROOT / PACKAGES[package] / package
    assert (folder / "py.typed").exists()
    first_lines = {p: p.read_text().split("\n", 1)[0] for p in folder.rglob("*.py")}
    assert [str(p) for p, line in first_lines.items() if not (line.startswith('"""') and "?" in line)] == []


def test_the_contracts_name_every_package() -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert sorted(linter["root_packages"]) == sorted(PACKAGES)


def test_the_import_contracts_hold(copy: Path) -> None:
    result = lint_imports(copy)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "planted", "contract"),
    [
        (
            "client/energyd_client/clock.py",
            "import duckdb",
            "The client imports nothing of ours and nothing heavy",
        ),
        (
            "client/energyd_client/clock.py",
            "import energyd",
            "The client imports nothing of ours and nothing heavy",
        ),
        ("pipelines/energyd_pipelines/cell.py", "import energyd.timeline", "Workloads know only the client"),
        ("daemon/energyd/timeline.py", "import energyq", "The daemon knows neither workloads nor analysis"),
        ("daemon/energyd/top.py", "import pynvml", "Only sources/nvml.py speaks NVML"),
        ("daemon/energyd/top.py", "import duckdb", "DuckDB stays in the store"),
        ("daemon/energyd/top.py", "import msgpack", "One file packs bytes"),
    ],
)
def test_a_planted_import_breaks_its_contract(copy: Path, file: str, planted: str, contract: str) -> None:
    path = copy / file
    path.write_text(f"{path.read_text()}\n{planted}\n")
    result = lint_imports(copy)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{contract} BROKEN" in result.stdout


@pytest.mark.parametrize(
    ("module", "program"),
    [("energyd.cli", "energyd"), ("energyd.__main__", "energyd"), ("energyq.cli", "energyq"),
     ("energyd_pipelines.cli", "distill")],
)
def test_help_appears_without_loading_anything_heavy(module: str, program: str) -> None:
    code = (
        f"import sys; sys.argv = ['{program}', '--help']\n"
        f"from {module} import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'duckdb', 'zmq', 'rich', 'numpy', 'torch', 'codecarbon', 'msgspec', 'pynvml'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Usage" in result.stdout
