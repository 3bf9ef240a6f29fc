"""Is the page of faults what the tests say?"""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.page import PAGE, collect, page


def test_the_page_of_faults_is_current() -> None:
    assert PAGE.read_text() == page(collect()), "run: python tests/faults/page.py"


def test_a_fault_without_what_is_seen_is_no_row(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").write_text("@pytest.mark.fault('fire')\ndef test_a(): pass\n")
    with pytest.raises(ValueError, match="fire"):
        collect(tmp_path)
