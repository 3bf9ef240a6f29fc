"""How is a report one file: no network, light and dark, readable aloud, printable?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from energyq.svg import DARK, STYLE

_CSS: Final = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1a1d21;--dim:#5c646d;--edge:#d8dde2}
@media (prefers-color-scheme:dark){
:root{--paper:#15181b;--ink:#e8eaed;--dim:#9aa3ad;--edge:#343a41}
DARK}
*{box-sizing:border-box}
body{margin:0 auto;max-width:62rem;padding:2rem 1.25rem 4rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .3rem}h2{font-size:1.2rem;margin:2.4rem 0 .6rem}
p,li{max-width:46rem}.dim{color:var(--dim)}
figure{margin:1rem 0;overflow-x:auto}figure svg{display:block;width:100%;min-width:34rem;height:auto}
figcaption{color:var(--dim);font-size:.9rem;margin-top:.4rem;max-width:46rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:.28rem .7rem;border-bottom:1px solid var(--edge);text-align:left;white-space:nowrap}
th{color:var(--dim);font-weight:600}td.n,th.n{text-align:right}tr.sum td{font-weight:600}
ul{padding-left:1.2rem}summary{cursor:pointer;color:var(--dim)}details{margin:.5rem 0}
@media print{body{max-width:none;padding:0;font-size:11px}h2{break-after:avoid}
table,figcaption{font-size:9.5px}th,td{padding:.15rem .35rem}th{white-space:normal}
h1{font-size:18px}h2{font-size:14px}
figure,table{break-inside:avoid}details>*{display:block}
details::details-content{content-visibility:visible;block-size:auto}.noprint{display:none}}
""".replace("DARK", DARK)


_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def page(title: str, parts: Iterable[str], script: str = "") -> str:
    """The whole file. `parts` are HTML, `script` is JavaScript of ours."""
    body = "\n".join(parts)
    code = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{STYLE}{_CSS}</style></head>\n"
        f"<body>\n{body}\n{code}</body></html>\n"
    )


def heading(title: str, below: str) -> str:
    """The page's own title, and what it is about."""
    return f'<h1>{escape(title)}</h1>\n<p class="dim">{escape(below)}</p>'


def section(title: str, *parts: str) -> str:
    """A part with its heading; nothing where it would be empty."""
    inside = [part for part in parts if part]
    return f"<h2>{escape(title)}</h2>\n" + "\n".join(inside) if inside else ""


def figure(svg: str, caption: str) -> str:
    """A drawing and what it shows."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1, sums: Sequence[int] = ()
) -> str:
    """A table whose first `words` columns are words, the rest numbers; rows of `sums` stand out."""
    kinds = ["" if i < words else ' class="n"' for i in range(len(columns))]
    head = "".join(f'<th scope="col"{k}>{escape(c)}</th>' for k, c in zip(kinds, columns, strict=True))
    lines = []
    for i, row in enumerate(rows):
        cells = "".join(f"<td{k}>{escape(c)}</td>" for k, c in zip(kinds, row, strict=True))
        summed = ' class="sum"' if i in sums else ""
        lines.append(f"<tr{summed}>{cells}</tr>")
    body = "\n".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def items(lines: Iterable[str]) -> str:
    """A list; nothing where there is no line."""
    found = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{found}</ul>" if found else ""


def paragraph(text: str) -> str:
    """One paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def folded(title: str, inside: str) -> str:
    """What is shown when asked for, and in print."""
    return f"<details><summary>{escape(title)}</summary>{inside}</details>" if inside else ""
