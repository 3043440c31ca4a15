"""The loops that take most of the time, compiled for processors; elsewhere torch's operators do the same.

What a kernel computes stands beside its twin in torch, in :mod:`mlip.potential.ace.invariants` and
:mod:`mlip.potential.ace.edges`, which call it where :func:`usable`. Derivatives with respect to the geometry and second
derivatives are the twins' alone.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlip.potential.ace.kernels.loader import load_library

__all__ = ["ContractEdges", "DeriveFields", "FormInvariants", "SumEdges", "usable"]

DEGREES, POWERS = (1, 2, 3), (1, 2)
"""l_max and numbers of powers nu that the kernels are compiled for."""
NAMES = {torch.float32: "float", torch.float64: "double"}
GRAIN = {"contract": 64, "contract_back": 64, "sum_back": 64}
"""Atoms, and of other kernels numbers (N K), for which a further thread is worth its start; whole vectors."""


def usable(l_max: int | None, n_powers: int | None, like: Tensor) -> bool:
    """Whether kernels can take arrays like ``like``: on a CPU, compiled, and while torch neither records a program nor
    transforms functions (``torch.func``, whose tensors have no memory)."""
    return (
        like.device.type == "cpu"
        and like.dtype in NAMES
        and (l_max is None or l_max in DEGREES)
        and (n_powers is None or n_powers in POWERS)
        and not torch.compiler.is_compiling()
        and torch._C._functorch.peek_interpreter_stack() is None
        and load_library() is not None
    )


class FormInvariants(torch.autograd.Function):
    """Invariants [I, N, K] and products T_nu [n_powers, LM, N, K] of fields U [LM, N, K].

    ``points`` [n, 1 + LM]: weight and harmonics of one point of each antipodal pair. The products carry no derivative.
    """

    @staticmethod
    def forward(ctx: Any, fields: Tensor, points: Tensor, l_max: int, n_powers: int) -> tuple[Tensor, Tensor]:
        fields = fields.contiguous()
        width = fields[0].numel()
        products = fields.new_empty(n_powers, *fields.shape)
        invariants = fields.new_empty(2 + l_max + n_powers, *fields.shape[1:])
        _run("form", fields, width, (width, l_max, n_powers, points, len(points), fields, products, invariants))
        ctx.save_for_backward(fields, products)
        ctx.mark_non_differentiable(products)
        ctx.set_materialize_grads(False)
        return invariants, products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        fields, products = ctx.saved_tensors
        return derive(fields, products, grads[0][None])[0], None, None, None


class DeriveFields(torch.autograd.Function):
    """dE/dU [P, LM, N, K] from dE/dM [P, I, N, K], U and T_nu; T counts as a function of U in the derivatives."""

    @staticmethod
    def forward(ctx: Any, slopes: Tensor, fields: Tensor, products: Tensor, points: Tensor) -> Tensor:
        slopes = slopes.contiguous()
        ctx.save_for_backward(slopes, fields, products, points)
        return derive(fields, products, slopes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slopes, fields, products, points = ctx.saved_tensors
        width, l_max, n_powers = _sizes(fields, products)
        back_fields, back_slopes = torch.empty_like(fields), torch.empty_like(slopes)
        back = grads[0].contiguous()
        arrays = (points, len(points), fields, products, slopes, back, back_fields, back_slopes)
        _run("derive_back", fields, width, (width, l_max, n_powers, len(slopes), *arrays))
        return back_slopes, back_fields, None, None


def derive(fields: Tensor, products: Tensor, slopes: Tensor) -> Tensor:
    """Forward of :class:`DeriveFields`."""
    slopes = slopes.contiguous()
    width, l_max, n_powers = _sizes(fields, products)
    gradient = fields.new_empty(len(slopes), *fields.shape)
    arrays = (fields, products, slopes, gradient)
    _run("derive", fields, width, (width, l_max, n_powers, len(slopes), *arrays))
    return gradient


def _sizes(fields: Tensor, products: Tensor) -> tuple[int, int, int]:
    return fields[0].numel(), round(len(fields) ** 0.5) - 1, len(products)


class ContractEdges(torch.autograd.Function):
    """dE_i/dr_ij [N, P, 3, M] from G = dE/dA [P, LM, N, S*n_radial] and the ``arrays`` of the edges."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, slots: tuple[int, ...], shared: Tensor | None, *arrays: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        edges = gradient.new_empty(gradient.shape[2], len(gradient), 3, slots[-1])
        _run("contract", gradient, len(edges), (*_edge_sizes(gradient, slots, shared, arrays), gradient, edges))
        ctx.given, ctx.shape = (slots, shared, arrays), gradient.shape
        return edges

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slots, shared, arrays = ctx.given
        back, gradient = grads[0].contiguous(), grads[0].new_empty(ctx.shape)
        _run("contract_back", gradient, len(back), (*_edge_sizes(gradient, slots, shared, arrays), back, gradient))
        return gradient, None, None, *[None for _ in arrays]


def _edge_sizes(
    gradient: Tensor, slots: tuple[int, ...], shared: Tensor | None, arrays: tuple[Tensor, ...]
) -> tuple[Any, ...]:
    first = (ctypes.c_int64 * len(slots))(*slots)
    n_members, n_angular, rows, _ = gradient.shape
    return rows, n_members, len(slots) - 1, first, slots[-1], arrays[0].shape[1], n_angular, shared, *arrays


class SumEdges(torch.autograd.Function):
    """Forces [N, P, 3] and virials [n_structures, P, 3, 3] from dE_i/dr_ij [N, P, 3, M].

    ``geometry``: neighbors, structure, direction and distance of :class:`mlip.potential.ace.environments.Environments`.
    """

    @staticmethod
    def forward(ctx: Any, edges: Tensor, n_structures: int, *geometry: Tensor) -> tuple[Tensor, Tensor]:
        edges = edges.contiguous()
        n, p, _, slots = edges.shape
        forces, virials = edges.new_zeros(n, p, 3), edges.new_zeros(n_structures, p, 3, 3)
        _function("sum", edges.dtype)(0, n, n, p, slots, *_pointers((*geometry, edges, forces, virials)))
        ctx.geometry = geometry
        return forces, virials

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        forces, virials = (grad.contiguous() for grad in grads)
        (n, p, _), slots = forces.shape, ctx.geometry[0].shape[-1]
        edges = forces.new_empty(n, p, 3, slots)
        _run("sum_back", edges, n, (p, slots, *ctx.geometry, forces, virials, edges))
        return edges, None, *[None for _ in ctx.geometry]


def _run(name: str, like: Tensor, count: int, arguments: tuple[Any, ...]) -> None:
    """Call a kernel for 0 ... count, in as many parts as torch uses threads."""
    function, values = _function(name, like.dtype), _pointers(arguments)
    grain = GRAIN.get(name, 2048)
    n_parts = min(torch.get_num_threads(), max(count // grain, 1))
    if n_parts == 1:
        function(0, count, *values)
        return
    step = -(-count // (n_parts * grain)) * grain
    parts = [(a, min(a + step, count)) for a in range(0, count, step)]
    list(_pool(n_parts, os.getpid()).map(lambda part: function(*part, *values), parts))


def _pointers(arguments: tuple[Any, ...]) -> list[Any]:
    return [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]


@cache
def _pool(n_threads: int, _process: int) -> ThreadPoolExecutor:
    """Threads of this process: a fork does not inherit them."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="kernel")


@cache
def _function(name: str, dtype: torch.dtype) -> Callable[..., None]:
    library = load_library()
    if library is None:
        raise RuntimeError(f"{name}: there are no compiled kernels")
    whole, short, array = ctypes.c_int64, ctypes.c_int, ctypes.c_void_p
    degree = [whole, short, short]
    contract = [whole, whole, whole, ctypes.POINTER(whole), whole, whole, whole, *[array] * 9]
    signatures: dict[str, list[Any]] = {
        "form": [*degree, array, short, array, array, array],
        "derive": [*degree, whole, array, array, array, array],
        "derive_back": [*degree, whole, array, short, *[array] * 6],
        "contract": contract,
        "contract_back": contract,
        "sum": [whole, whole, whole, *[array] * 7],
        "sum_back": [whole, whole, *[array] * 7],
    }
    function = getattr(library, f"{name}_{NAMES[dtype]}")
    function.argtypes, function.restype = [whole, whole, *signatures[name]], None
    result: Callable[..., None] = function
    return result
