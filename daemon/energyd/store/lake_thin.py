"""What of an hour's samples is shipped where one a second is enough? As `upkeep_files` thins a day.

Kept besides each second's last sample: those around gaps and around every edge of a stage that is known, by
its energies or, while it still runs, by its markers.
"""

from __future__ import annotations

from pathlib import Path

from energyd.store.base import quoted, sealed_files
from energyd.store.durable import copy_parquet, sync
from energyd.store.outbox import THINNED, Outbox, Waiting
from energyd.store.upkeep_files import THIN_SQL, connect, view_of


def thin_segment(store: Path, outbox: Outbox, waiting: Waiting) -> Waiting:
    """Put the thinned file in the raw one's place in the outbox. Raises OSError, duckdb.Error."""
    raw = outbox.path(waiting)
    thin = raw.with_name(raw.name + THINNED)
    files = sealed_files(store, None)
    with connect() as con:
        columns = "device, t_ns, power_mw, cum_uj"
        con.execute(f"CREATE VIEW day_samples AS SELECT {columns} FROM read_parquet({quoted(raw)})")
        view_of(con, store, "all_gaps", files["gaps"], "device UTINYINT, t0_ns BIGINT, t1_ns BIGINT")
        view_of(con, store, "known", files["energies"], "device UTINYINT, t0_ns BIGINT, t1_ns BIGINT")
        view_of(con, store, "said", files["markers"], "kind VARCHAR, t_ns BIGINT")
        view_of(con, store, "all_devices", files["devices"], "device UTINYINT, max_step_ns BIGINT")
        con.execute("CREATE TABLE thinned AS FROM day_samples LIMIT 0")
        con.execute(
            "CREATE TABLE all_energies AS FROM known UNION"
            " SELECT device, t_ns, t_ns FROM (SELECT DISTINCT t_ns FROM said WHERE kind IN ('begin', 'end')),"
            " (SELECT DISTINCT device FROM day_samples)"
        )
        spans = con.execute("SELECT device, min(t_ns), max(t_ns) FROM day_samples GROUP BY 1 ORDER BY 1")
        for device, first, last in spans.fetchall():
            con.execute(THIN_SQL, {"device": device, "first_ns": first, "last_ns": last})
        tmp = raw.with_name(raw.name + ".tmp")
        copy_parquet(con, "FROM thinned", tmp)
    sync(tmp)
    tmp.rename(thin)
    raw.unlink()
    sync(thin.parent)
    return Waiting(waiting.table, waiting.day, thin.name, thin.stat().st_size)
