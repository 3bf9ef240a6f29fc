"""How do token ids of more than 16 bits take 17 or 18 bits instead of 32?

The low 16 bits are a uint16; each further bit is a plane of its own, eight ids to a byte. 17 bits hold every
vocabulary up to 131,072 (OLMo-2: 100,352), 18 those up to 262,144. A vocabulary of 65,536 needs no plane.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from energyd_pipelines.errors import DistillError


def planes_of(vocab_size: int) -> int:
    """How many bits an id of this vocabulary has above the low 16."""
    return max(0, (vocab_size - 1).bit_length() - 16)


def plane_bytes(k: int) -> int:
    """Bytes of one plane of k ids."""
    return (k + 7) // 8


def pack(ids_NK: NDArray[np.uint32], planes: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """(low (N, K), high (N, planes, plane_bytes(K))). Raises DistillError for an id that needs more bits."""
    if ids_NK.size and int(ids_NK.max()) >> (16 + planes):
        raise DistillError(
            f"token id {int(ids_NK.max())} does not fit into {16 + planes} bits",
            cure="give the cache the vocabulary's true size",
        )
    high = [np.packbits(((ids_NK >> (16 + p)) & 1).astype(np.uint8), axis=1) for p in range(planes)]
    shape = (len(ids_NK), planes, plane_bytes(ids_NK.shape[1]))
    return ids_NK.astype(np.uint16), (np.stack(high, axis=1) if high else np.zeros(shape, np.uint8))


def unpack(low_NK: Tensor, high_NPB: Tensor) -> Tensor:
    """int64 ids (N, K), on the tensors' device. `low_NK`: int16 with the bits of a uint16.

    Done there because 2 bytes and a bit an id are less to copy than 8.
    """
    ids = low_NK.to(torch.int64) & 0xFFFF
    shifts = torch.arange(7, -1, -1, device=low_NK.device)
    for p in range(high_NPB.shape[1]):
        bits = (high_NPB[:, p, :, None].to(torch.int64) >> shifts) & 1  # packbits puts the first id highest
        ids |= bits.flatten(1)[:, : ids.shape[1]] << (16 + p)
    return ids
