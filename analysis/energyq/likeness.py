"""Are runs alike enough to be compared: one hardware, driver, tokenizer and training configuration?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from energyq.find import Refused, question
from energyq.study import MIXED

if TYPE_CHECKING:
    from energyd.store.read import Reader

LABELS: Final = ("tokenizer", "train_config")
"""What only a program knows, and says by a label: a name or a hash."""

MUST_BE_ALIKE: Final = ("hardware", "driver", "domains", *LABELS)

Facts = dict[str, str]


def facts_of(reader: Reader, run_ids: Sequence[str]) -> dict[str, Facts]:
    """What is known of each run that must be alike; what is not known is not there."""
    rows = reader.sql(question("likeness"), {"runs": list(run_ids)}).dicts()
    return {r["run_id"]: {k: r[k] for k in MUST_BE_ALIKE if r[k] is not None} for r in rows}


def unlike(facts: Iterable[Mapping[str, str]], keys: Iterable[str] = MUST_BE_ALIKE) -> list[str]:
    """In what these differ, one line a fact: `driver: 550 / 570`. What one does not tell is no difference."""
    listed = list(facts)
    found = []
    for key in keys:
        values = sorted({f[key] for f in listed if key in f})
        if len(values) > 1:
            found.append(f"{key}: {' / '.join(values)}")
    return found


def refuse_or_note(found: Sequence[str], *, allow_mixed: bool) -> list[str]:
    """The notes that a mixed answer must carry. Raises Refused unless mixing is allowed."""
    if found and not allow_mixed:
        raise Refused(
            f"these runs are not alike: {'; '.join(found)}\n"
            "  cure: runs of one set-up, or --allow-mixed, which the answer then says"
        )
    return [f"{MIXED}{line}" for line in found]
