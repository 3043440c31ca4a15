"""A second device for machines without a GPU: its tensors hold numbers in host memory that only it may touch.

torch treats it as it treats CUDA: an operation on tensors of two devices fails (but for numbers without dimensions and
a CPU tensor that is copied), ``numpy()`` fails, new tensors are on the CPU unless they are told otherwise. What it does
not show: speed, memory, races between streams, rounding of CUDA's kernels, operators that CUDA lacks.

Importing this module changes torch for the whole process, so tests run it as a program:

    python -m tests.remote_device train two-layers
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, library
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from tests.unit.conftest import label_emt, make_alloy

NAME = "remote"
_setup_privateuseone_for_python_backend(NAME)
DEVICE = torch.device(NAME, 0)
ATEN = torch.ops.aten
HOST_DECIDES = (
    ATEN._local_scalar_dense.default,
    ATEN.nonzero.default,
    ATEN.repeat_interleave.Tensor,
    ATEN.bincount.default,
)
"""Operations whose result the host has to see before it can go on."""
WAITS: list[str] = []
"""Operations so far for which host and device have waited for each other, as they would with CUDA."""


class RemoteTensor(Tensor):
    """A tensor on the device; ``host`` has its numbers."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> RemoteTensor:
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=DEVICE,
            requires_grad=host.requires_grad,
        )
        self.host = host
        return self

    def __repr__(self, **_: Any) -> str:
        return f"remote {self.host}"

    def tolist(self) -> Any:
        WAITS.append("tolist")
        return self.host.tolist()

    def __setitem__(self, index: Any, value: Any) -> None:
        if not isinstance(value, Tensor) and self.host[index].ndim == 0:
            WAITS.append("setitem")  # CUDA, unlike other devices, makes a tensor on the host of it
        super().__setitem__(index, value)

    def numpy(self, **_: Any) -> np.ndarray:
        raise TypeError("the numbers are on another device; use .cpu() first")

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return execute(operator, args, kwargs or {})


def execute(operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run ``operator`` on the host's numbers, on the device that torch would run it on, or refuse."""
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    remote = [x for x in tensors if isinstance(x, RemoteTensor)]
    given = kwargs.get("device")
    there = bool(remote) if given is None else torch.device(given).type == NAME
    moves = bool(tensors) and given is not None and there != bool(remote)
    if moves or (remote and operator in HOST_DECIDES):
        WAITS.append(str(operator))
    if operator is ATEN._local_scalar_dense.default:
        there = False
    elif operator is ATEN.copy_.default:
        there = isinstance(args[0], RemoteTensor)
        WAITS.extend([str(operator)] * (len(remote) == 1))
    elif remote and any(x.ndim for x in tensors if not isinstance(x, RemoteTensor)):
        raise RuntimeError(f"{operator}: tensors of two devices")
    host_args, host_kwargs = pytree.tree_map(_to_host, (args, kwargs))
    output = operator(*host_args, **host_kwargs)
    if operator._schema.is_mutable:  # what was changed in place stays the same object
        owners = {id(_to_host(x)): x for x in tensors}
        return pytree.tree_map(lambda x: owners.get(id(x), x), output)
    return pytree.tree_map(lambda x: RemoteTensor(x) if there and isinstance(x, Tensor) else x, output)


def _to_host(x: Any) -> Any:
    if isinstance(x, torch.device):
        return torch.device("cpu")
    return x.host if isinstance(x, RemoteTensor) else x


class RemoteMode(TorchDispatchMode):
    """Within it, the device exists: tensors can be made on it and moved to it."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return execute(operator, args, kwargs or {})


class _NoGradient:
    """In place of ``torch.inference_mode``, which has no room for tensors of Python."""

    def __enter__(self) -> None:
        self.guard = torch.no_grad()
        self.guard.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.guard.__exit__(*error)


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return RemoteTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    if isinstance(source, RemoteTensor) != isinstance(target, RemoteTensor):
        WAITS.append("copy")
    _to_host(target).copy_(_to_host(source))
    return target


# What torch calls past every mode, as in torch.tensor(..., device=...).
_FALLBACK, _OPERATORS = library.Library("_", "IMPL"), library.Library("aten", "IMPL")
_FALLBACK.fallback(lambda operator, *args, **kwargs: execute(operator, args, kwargs), "PrivateUse1")
_OPERATORS.impl("empty_strided", _empty_strided, "PrivateUse1")
_OPERATORS.impl("_copy_from", _copy_from, "PrivateUse1")
for _name in ("__enter__", "__exit__"):
    setattr(torch.inference_mode, _name, getattr(_NoGradient, _name))


def make_alloys(n: int) -> list[Atoms]:
    """Rattled Cu-Au with EMT's labels, which stand in for DFT: devices are the point here."""
    return [label_emt(make_alloy(seed)) for seed in range(n)]


SMALL: dict[str, Any] = {"n_steps": 12, "cutoff": 4.0, "checkpoint_every": 4, "batch_size": 2}
ACE: dict[str, Any] = SMALL | {"n_channels": 4, "hidden": [6], "n_radial": 4, "l_max": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "one-layer": ACE,
    "two-layers": ACE | {"n_layers": 2, "uncertainty": "last_layer"},
    "mace": SMALL
    | {"backend": "mace", "committee_size": 2}
    | {"mace": {"hidden_irreps": "4x0e", "num_interactions": 1, "correlation": 2, "max_ell": 1}},
}


def train(kind: str, device: str) -> tuple[Path, dict[str, Any]]:
    """A trained potential's folder and what training says of it."""
    from mlip.config.train import Train
    from mlip.loop.train_committee import TrainingRequest, train_committee

    structures, out = make_alloys(12), Path(tempfile.mkdtemp())
    settings, checkpoint = Train(**SETTINGS[kind]), out / "checkpoint"
    result = train_committee(
        TrainingRequest(structures[:9], structures[9:], settings, out, seed=1, device=device, checkpoint=checkpoint)
    )
    return out, result


def compare_training(kind: str) -> dict[str, Any]:
    """Largest differences between what was trained and evaluated on the CPU, without compiled loops, and there."""
    from safetensors.numpy import load_file

    here, one = train(kind, "cpu")
    with RemoteMode():
        there, two = train(kind, str(DEVICE))
    first, second = (load_file(folder / "potential.safetensors") for folder in (here, there))
    weights = [float(np.abs(tensor - second[name].astype(float)).max(initial=0.0)) for name, tensor in first.items()]
    errors = [abs(one["valid_errors"][name] - two["valid_errors"][name]) for name in ("energy_mae", "force_mae")]
    return {"weights": max(weights), "errors": max(errors), "device": two["device"]}


def compare_simulation() -> dict[str, float]:
    """Largest differences of TorchSim's model for a batch of two crystals."""
    import torch_sim as ts

    from mlip.export.torchsim import load_torchsim_model

    folder, _ = train("one-layer", "cpu")
    outputs = []

    def evaluate(device: Any) -> None:
        model = load_torchsim_model(folder, device=device)
        state = ts.initialize_state(make_alloys(2), torch.device("cpu"), torch.float64).to(device)
        outputs.append({name: value.cpu() for name, value in model(state).items()})

    evaluate(torch.device("cpu"))
    with RemoteMode():
        evaluate(DEVICE)
    return {name: float((value - outputs[1][name]).abs().max()) for name, value in outputs[0].items()}


def repeat_step() -> dict[str, Any]:
    """Largest differences of a step in slots, on the device, from the model on the CPU, and what waited in it."""
    import torch_sim as ts

    from mlip.export.torchsim import find_batch_pairs, load_torchsim_model

    folder, _ = train("two-layers", "cpu")
    state = ts.initialize_state(make_alloys(2), torch.device("cpu"), torch.float64)
    expected = load_torchsim_model(folder)(state)
    with RemoteMode():
        model, there = load_torchsim_model(folder, device=DEVICE), state.to(DEVICE)
        batch = model.arrange(there, find_batch_pairs(there, model.potential.cutoff + 0.5))
        batch.evaluate(model.potential, there.positions, there.row_vector_cell)  # tables are made at first use
        WAITS.clear()
        energy, forces, _ = batch.evaluate(model.potential, there.positions, there.row_vector_cell)
        waits = list(WAITS)
        WAITS.clear()
        model(there)
        found = {"energy": energy.cpu(), "forces": forces.cpu()}
    return {name: float((value - expected[name]).abs().max()) for name, value in found.items()} | {
        "waits": waits,
        "ordinary": len(WAITS),
    }


def mix_devices() -> dict[str, str]:
    """Error of a sum of tensors on two devices."""
    with RemoteMode():
        there = torch.ones(3, device=DEVICE)
        found: Tensor = there + 1.0 + torch.tensor(1.0)
        try:
            _ = there + torch.ones(3)
        except RuntimeError as error:
            return {"device": str(found.device), "error": str(error)}
    return {"device": str(found.device), "error": ""}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "train": compare_training,
    "simulate": compare_simulation,
    "repeat": repeat_step,
    "mix": mix_devices,
}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](*sys.argv[2:])))
