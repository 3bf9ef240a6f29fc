"""How do a store's figures leave it for tools that know nothing of energyd? As plain Parquet, with units."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from energyq.find import Refused

if TYPE_CHECKING:
    from energyd.store.read import Reader

_README = """# Energy data, exported by energyq

One Parquet file a view of the store `{store}`. Columns carry their units: `_j` joules, `_w` watts, `_mw`
milliwatts, `_uj` microjoules, `_ns` nanoseconds (since 1970, never stepped), `seconds`. NULL is not
known, never 0; `reason` says why. Doubts (`u_…`) are of k = 2.

"""


def export(reader: Reader, folder: Path) -> list[str]:
    """Write every view as Parquet, and a README; the names. Raises Refused if the folder is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"{folder} is there and not empty: nothing was written\n  cure: a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    text = _README.format(store=reader.store)
    names = []
    for (view, comment), columns in groupby(reader.views(), key=lambda row: row[:2]):
        reader.write_parquet(f"FROM {view}", folder / f"{view}.parquet")
        names.append(f"{view}.parquet")
        text += f"## {view}.parquet\n\n{comment}\n\n| column | type | what it holds |\n|---|---|---|\n"
        text += "".join(f"| {c} | {kind} | {meaning} |\n" for _, _, c, kind, meaning in columns) + "\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    return [*names, "README.md"]
