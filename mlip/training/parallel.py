"""Data-parallel training: every process takes a share of each batch, and gradients are summed.

Started by ``torchrun --nproc-per-node N -m mlip train ...``, which sets the variables that
``torch.distributed`` reads; without them there is one process and nothing here does anything. The
summed gradient is that of the whole batch, to round-off. (Weights of two runs still part slowly: an
optimiser that scales all directions of the gradient alike lets round-off grow.)
Give ``train.batch_size`` several structures per process: a GPU with one small structure is idle most of the time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlip.config.train import Train


@dataclass(frozen=True)
class Processes:
    """This process among ``size``; only the first (``rank`` 0) writes files."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, chosen: Sequence[int]) -> list[int]:
        """The part of a batch that this process computes; may be empty."""
        return list(chosen[self.rank :: self.size])

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace ``tensors`` by their sums over the processes, in one message."""
        self._reduce(tensors, torch.distributed.all_reduce)

    def copy_(self, tensors: Iterable[Tensor]) -> None:
        """Replace ``tensors`` by those of the first process."""
        self._reduce(tensors, lambda flat: torch.distributed.broadcast(flat, src=0))

    def _reduce(self, tensors: Iterable[Tensor], operation: Callable[[Tensor], object]) -> None:
        if self.size == 1:
            return
        everything = list(tensors)
        flat = torch.cat([t.detach().reshape(-1) for t in everything])
        operation(flat)
        with torch.no_grad():
            for tensor, part in zip(everything, flat.split([t.numel() for t in everything]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def agree(self, value: float, device: torch.device | str) -> float:
        """The first process's ``value``: clocks differ, and schedules must not."""
        if self.size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=device)
        self.copy_([tensor])
        return float(tensor)


SINGLE = Processes()


def count_processes() -> int:
    """Processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@contextlib.contextmanager
def join_processes(device: str) -> Iterator[tuple[Processes, str]]:
    """The processes that torchrun started, and this one's device; gloo on CPUs, NCCL on GPUs.

    Raises:
        ValueError: for more processes on a machine than it has GPUs.
    """
    if count_processes() == 1:
        yield SINGLE, device
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = device.startswith("cuda")
    if on_gpu:
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"process {local} of this machine has no GPU: it has {torch.cuda.device_count()}; start torchrun with "
                "that many processes per node"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    # Who called this with a group of their own keeps it.
    opened = not torch.distributed.is_initialized()
    if opened:
        torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
    yield Processes(torch.distributed.get_rank(), torch.distributed.get_world_size()), device
    # Not after an error: NCCL would wait for processes that wait for this one, and torchrun could not end them.
    if opened:
        torch.distributed.destroy_process_group()


def share_settings(
    settings: Train, rows: Sequence[Tensor], share: Sequence[int], chosen: Sequence[int]
) -> tuple[Train, tuple[float, float, float]]:
    """``settings`` with which the loss of ``share`` adds up to that of the batch ``chosen``.

    The force term is a mean over atoms (``rows`` lists those of each structure), the energy and
    virial terms are means over structures: a share counts as much as it has of either. Also these
    parts: of energies, forces and virials.
    """
    if len(share) == len(chosen):
        return settings, (1.0, 1.0, 1.0)
    atoms = sum(len(rows[k]) for k in share) / sum(len(rows[k]) for k in chosen)
    structures = len(share) / len(chosen)
    weights = {
        "force_weight": settings.force_weight * atoms,
        "energy_weight": settings.energy_weight * structures,
        "stress_weight": settings.stress_weight * structures,
    }
    return settings.model_copy(update=weights), (structures, atoms, structures)
