"""How does what a teacher said at each label position lie on disk, small and quick to read?

One record a label position, one after the other, all of one size, in `rows.bin` (memory-mapped):

  lse   float32, one for each temperature   log Σ_v exp((z_v − z_top)/tau) over ALL V: any stored temperature
                                            costs no teacher energy, and the tail's mass follows
  rel   float16 (k)                         logits less the top one, falling from 0
  low   uint16 (k), high planes             token ids (packed_ids.py)

so that a position of OLMo-2's vocabulary at k = 64 with three temperatures takes 276 bytes, where lists of
float64 and int64 take 1,024 and a dense bf16 row 200,704. `examples.npz` holds where each example begins and
the CRC-32 of its records; `cache.json` comes last, so that a cache whose writer was killed has none.
A smaller k is a view of the same records. Positions are those of examples' labels, nothing else.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from energyd_pipelines.errors import DistillError
from energyd_pipelines.packed_ids import pack, plane_bytes, planes_of, unpack

VERSION: Final = 1
ROWS, EXAMPLES, HEAD = "rows.bin", "examples.npz", "cache.json"
_BINS: Final = 4096  # of the kept mass, for its 5 % quantile
_ALIVE: Final = 1 << 27  # elements of fp32 logits worked on at once: 0.5 GB


@dataclass
class SparseTargets:
    """What the teacher said at N positions.

    ids_NK int64; rel_NK float32, logits less the top logit, at temperature 1; lse_N float32,
    log Σ_v exp((z_v − z_top)/tau) over the whole vocabulary; tau the temperature of lse_N.
    """

    ids_NK: Tensor
    rel_NK: Tensor
    lse_N: Tensor
    tau: float

    def __getitem__(self, part: slice) -> SparseTargets:
        """The positions of a slice."""
        return SparseTargets(self.ids_NK[part], self.rel_NK[part], self.lse_N[part], self.tau)


def record(k: int, vocab_size: int, n_taus: int) -> np.dtype[Any]:
    """The type of one position."""
    high = (planes_of(vocab_size), plane_bytes(k))
    kept = [("rel", "<f2", (k,)), ("low", "<u2", (k,)), ("high", "u1", high)]
    return np.dtype([("lse", "<f4", (n_taus,)), *kept])


class CacheWriter:
    """Writes a cache, example after example, in the order of the dataset. Use with `with`, or close().

    Raises DistillError for k above the vocabulary and when the disk takes no more.
    """

    def __init__(
        self, folder: Path, *, k: int, vocab_size: int, temperatures: Sequence[float] = (1.0, 2.0, 4.0)
    ) -> None:
        if not 1 <= k <= vocab_size:
            raise DistillError(
                f"k={k} of a vocabulary of {vocab_size}", cure="k from 1 to the vocabulary's size"
            )
        if not temperatures or min(temperatures) <= 0:
            raise DistillError(f"temperatures {list(temperatures)}", cure="one or more, all above 0")
        self.folder, self.k, self.vocab_size = folder, k, vocab_size
        self.temperatures = tuple(float(t) for t in temperatures)
        self._type = record(k, vocab_size, len(self.temperatures))
        self._lengths: list[int] = []
        self._crcs: list[int] = []
        self._mass_bins = np.zeros(_BINS, np.int64)
        self._mass_sum = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = self._guarded(lambda: (folder / ROWS).open("wb"))

    @torch.no_grad()
    def compact(self, logits_NV: Tensor) -> NDArray[Any]:
        """Records (N,) of raw logits (N, V), made where the logits are; for append_rows."""
        if logits_NV.shape[1] < self.vocab_size:
            raise DistillError(
                f"logits over {logits_NV.shape[1]} tokens for a vocabulary of {self.vocab_size}",
                cure="teacher and student must share the tokenizer",
            )
        rows = np.empty(len(logits_NV), self._type)
        step = max(1, _ALIVE // self.vocab_size)
        for start in range(0, len(logits_NV), step):
            self._compact(logits_NV[start : start + step, : self.vocab_size], rows[start : start + step])
        return rows

    def _compact(self, logits_NV: Tensor, rows: NDArray[Any]) -> None:
        top_NK, ids_NK = logits_NV.topk(self.k, dim=1)
        z_NV = logits_NV.float() - top_NK[:, :1].float()
        rel_NK = top_NK.float() - top_NK[:, :1].float()
        lse_NT = torch.stack([(z_NV / tau).logsumexp(1) for tau in self.temperatures], 1)
        if not bool(torch.isfinite(lse_NT).all()):
            raise DistillError(
                "the teacher's logits are not finite",
                where=str(self.folder),
                cure="look at its weights and dtype",
            )
        rows["lse"], rows["rel"] = lse_NT.cpu().numpy(), rel_NK.half().cpu().numpy()
        ids = ids_NK.to(torch.int32).cpu().numpy().astype(np.uint32)
        rows["low"], rows["high"] = pack(ids, planes_of(self.vocab_size))

    def append_rows(self, rows: NDArray[Any]) -> None:
        """The next example's records, from compact."""
        data = rows.tobytes()
        self._guarded(lambda: self._file.write(data))
        self._lengths.append(len(rows))
        self._crcs.append(zlib.crc32(data))
        tau = min(range(len(self.temperatures)), key=lambda i: abs(self.temperatures[i] - 1))
        rel = rows["rel"].astype(np.float32) / self.temperatures[tau]
        mass = np.exp(rel - rows["lse"][:, tau, None]).sum(1).clip(0, 1)
        self._mass_sum += float(mass.sum())
        self._mass_bins += np.bincount((mass * (_BINS - 1)).astype(np.int64), minlength=_BINS)

    def append_example(self, logits_NV: Tensor) -> None:
        """The next example: raw logits (N, V) at its N label positions, in order."""
        self.append_rows(self.compact(logits_NV))

    def close(self) -> dict[str, Any]:
        """Make it durable and valid; what `cache.json` says: positions, kept mass (mean, p05) …"""
        positions = sum(self._lengths)
        offsets = np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)]).astype(np.int64)
        p05 = float(np.searchsorted(np.cumsum(self._mass_bins), positions / 20))
        head = {
            "version": VERSION, "k": self.k, "vocab_size": self.vocab_size, "temperatures": self.temperatures,
            "n_examples": len(self._lengths), "label": positions, "bytes": positions * self._type.itemsize,
            "bytes_per_position": self._type.itemsize,
            "kept_mass_mean": self._mass_sum / positions if positions else None,
            "kept_mass_p05": p05 / (_BINS - 1) if positions else None,
        }  # fmt: skip

        def finish() -> None:
            self._durable(self._file)
            with (self.folder / EXAMPLES).open("wb") as file:
                np.savez(file, offsets=offsets, crc=np.array(self._crcs, np.uint32))
                self._durable(file)
            with (self.folder / HEAD).open("wb") as file:
                file.write(json.dumps(head, indent=1).encode())
                self._durable(file)

        self._guarded(finish)
        return head

    @staticmethod
    def _durable(file: IO[bytes]) -> None:
        file.flush()
        os.fsync(file.fileno())
        file.close()

    def _guarded(self, action: Any) -> Any:
        try:
            return action()
        except OSError as error:
            raise DistillError(
                f"the logit cache cannot be written: {error.strerror or error}",
                where=str(self.folder),
                cure="free space there, or another folder; what was written is no valid cache",
            ) from error

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


class LogitCache:
    """A finished cache, or a view of one. LogitCache.open checks that nothing is cut off."""

    def __init__(self, folder: Path, head: dict[str, Any], rows: Any, offsets: Any, crc: Any, k: int) -> None:
        self.folder, self.k, self._head = folder, k, head
        self.vocab_size: int = head["vocab_size"]
        self.temperatures: tuple[float, ...] = tuple(head["temperatures"])
        self.n_examples: int = head["n_examples"]
        self._rows, self._offsets, self._crc = rows, offsets, crc
        self._checked = np.zeros(self.n_examples, bool)

    @classmethod
    def open(cls, folder: Path) -> LogitCache:
        """Raises DistillError for what is no cache, is incomplete, or is of another version."""

        def bad(what: str) -> DistillError:
            return DistillError(what, where=str(folder), cure="make it again: --regenerate 'damaged cache'")

        try:
            head = json.loads((folder / HEAD).read_text())
            kind = record(int(head["k"]), int(head["vocab_size"]), len(head["temperatures"]))
            if head["version"] != VERSION:
                raise bad(f"a logit cache of version {head['version']}, this reads {VERSION}")
            size = (folder / ROWS).stat().st_size
            if size != head["bytes"] or head["bytes"] != head["label"] * kind.itemsize:
                raise bad(f"the logit cache's {ROWS} has {size:,} bytes, {head['bytes']:,} were written")
            with (folder / EXAMPLES).open("rb") as file, np.load(file, allow_pickle=False) as data:
                offsets, crc = data["offsets"], data["crc"]
            steps = np.diff(offsets)
            if len(crc) != head["n_examples"] or len(steps) != len(crc) or offsets[-1] != head["label"] or (
                steps < 0
            ).any():  # fmt: skip
                raise bad(f"the logit cache's {EXAMPLES} does not fit its {HEAD}")
            rows = np.memmap(folder / ROWS, kind, "r") if size else np.empty(0, kind)
        except FileNotFoundError as error:
            raise bad(f"no complete logit cache: {Path(str(error.filename)).name} is not there") from error
        except DistillError:
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError, IndexError) as error:
            raise bad(f"the logit cache cannot be read: {type(error).__name__}: {error}"[:200]) from error
        except Exception as error:  # zipfile.BadZipFile, zlib.error: numpy names them nowhere
            raise bad(f"the logit cache's {EXAMPLES} is damaged: {error}"[:200]) from error
        return cls(folder, head, rows, offsets, crc, int(head["k"]))

    def view(self, k: int) -> LogitCache:
        """The same positions with the first k tokens only; nothing is copied. Raises DistillError."""
        if not 1 <= k <= self.k:
            raise DistillError(
                f"k={k} of a cache that keeps {self.k}", where=str(self.folder), cure=f"k from 1 to {self.k}"
            )
        return LogitCache(self.folder, self._head, self._rows, self._offsets, self._crc, k)

    def n_positions(self, index: int) -> int:
        """Label positions of an example."""
        return int(self._offsets[index + 1] - self._offsets[index])

    def rows(
        self, indices: Sequence[int], *, tau: float = 1.0, device: torch.device | str = "cpu"
    ) -> SparseTargets:
        """What was said at all label positions of these examples, one after the other, on `device`.

        Raises DistillError for an example that is not there, a tau that is not stored, a changed byte.
        """
        if tau not in self.temperatures:
            raise DistillError(
                f"tau={tau} is not in this cache",
                where=str(self.folder),
                cure=f"one of {', '.join(f'{t:g}' for t in self.temperatures)}, or a cache made with it",
            )
        records = self._records(np.asarray(indices, np.int64))

        def there(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        low = there(records["low"][:, : self.k].view(np.int16))
        ids = unpack(low, there(records["high"][:, :, : plane_bytes(self.k)]))
        rel = there(records["rel"][:, : self.k]).float()
        return SparseTargets(ids, rel, there(records["lse"][:, self.temperatures.index(tau)]), tau)

    def _records(self, index_B: NDArray[np.int64]) -> NDArray[Any]:
        """All records of these examples, copied in one go.

        One by one they took 34 ms for 1,024 examples of 7 labels, numpy comparing their types pair by pair:
        longer than a small student's step on a GPU, which starved.
        """
        for i in index_B[(index_B < 0) | (index_B >= self.n_examples)][:1]:
            raise DistillError(
                f"example {i} of a cache of {self.n_examples}",
                where=str(self.folder),
                cure="the cache belongs to another dataset",
            )
        for i in index_B[~self._checked[index_B]]:
            self._check(int(i))
        first_B, n_B = self._offsets[index_B], np.diff(self._offsets)[index_B]
        before_B = np.cumsum(n_B) - n_B  # records of the examples before
        at_N = np.arange(n_B.sum()) + np.repeat(first_B - before_B, n_B)
        found: NDArray[Any] = np.asarray(self._rows)[at_N]
        return found

    def _check(self, index: int) -> None:
        """Compare an example with its CRC, once a process: it is as dear as reading."""
        found = self._rows[self._offsets[index] : self._offsets[index + 1]]
        if zlib.crc32(found.tobytes()) != self._crc[index]:
            raise DistillError(
                f"example {index} of the logit cache is not what was written (CRC)",
                where=str(self.folder / ROWS),
                cure="make it again: --regenerate 'damaged cache'",
            )
        self._checked[index] = True
