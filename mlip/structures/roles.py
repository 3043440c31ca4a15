"""What a labelled structure is for: it trains, it stops and calibrates a training, or it tests.

A structure that was chosen to teach trains, always. Audits, drawn at random, test every later potential and calibrate
its uncertainty; no weights are ever fitted to them. Only what nobody chose, the prepared structures of iteration 0 and
existing data, is shared out by a hash.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from ase import Atoms

from mlip.config.loop import Collect
from mlip.structures.geometry import is_lone

SPLITS = ("train", "valid", "test")
NOT_CHOSEN = (None, "initial", "existing")
"""Reasons of structures that were made or given rather than chosen for what they teach."""


def is_audit(atoms: Atoms) -> bool:
    """Whether ``atoms`` were drawn to judge potentials by."""
    return bool(atoms.info.get("reason") == "audit")


def split_of(atoms: Atoms, settings: Collect) -> str:
    """``train``, ``valid`` or ``test``, from the structure alone, so that it never changes.

    Audits test and chosen structures train. Of prepared structures and existing data, whose blocks (``data_block``)
    stay together because neighbours in time are nearly alike, a hash holds out the shares of ``settings``.
    Unperturbed starting structures train, so that every element is known.
    """
    if is_audit(atoms):
        return "test"
    if "data_block" in atoms.info:
        return _split_at(f"data {atoms.info['data_block']}", settings)
    if atoms.info.get("origin") in ("start", "walker") or atoms.info.get("reason") not in NOT_CHOSEN:
        return "train"
    return _split_at(atoms.info["label_key"], settings)


def _split_at(key: str, settings: Collect) -> str:
    position = int(hashlib.sha256(f"split/{key}".encode()).hexdigest()[:8], 16) / 16**8
    if position < settings.valid_fraction:
        return "valid"
    return "test" if position < settings.valid_fraction + settings.test_fraction else "train"


def split_new(new: Sequence[Atoms], train: Sequence[Atoms], settings: Collect) -> list[str]:
    """The split of each structure of ``new`` that joins the training set ``train``.

    That of :func:`split_of`, but isolated atoms train, from whose energies all others count, and so does the first
    that brings an element which no training structure has.
    """
    splits = ["train" if is_lone(atoms) else split_of(atoms, settings) for atoms in new]
    known = bound_elements([*train, *(atoms for split, atoms in zip(splits, new, strict=True) if split == "train")])
    for k, atoms in enumerate(new):
        if splits[k] != "train" and not set(atoms.symbols) <= known:
            splits[k] = "train"
            known |= set(atoms.symbols)
    return splits


def hold_out(structures: Sequence[Atoms], order: Sequence[int], n_held: int) -> list[int]:
    """The first ``n_held`` of ``order`` that training can do without: no isolated atoms, no sole carrier of an element.

    Fewer where there are no more such.
    """
    carriers = Counter(s for atoms in structures if not is_lone(atoms) for s in set(atoms.symbols))
    held: list[int] = []
    for k in order:
        elements = set(structures[k].symbols)
        if len(held) < n_held and not is_lone(structures[k]) and all(carriers[s] > 1 for s in elements):
            held.append(int(k))
            carriers.subtract(elements)
    return held


def bound_elements(structures: Sequence[Atoms]) -> set[str]:
    """Elements that occur among other atoms, as all training structures but isolated atoms have them."""
    return {symbol for atoms in structures if not is_lone(atoms) for symbol in atoms.symbols}


def fill_empty_valid(splits: dict[str, list[Atoms]]) -> None:
    """Give a validation set to a tiny data set that the hash left without one: of what was prepared, or the last."""
    train = splits["train"]
    if not splits["valid"] and len(train) > 2:
        made = [atoms.info.get("reason") in NOT_CHOSEN for atoms in train]
        order = sorted(range(len(train) - 1, -1, -1), key=lambda k: not made[k])
        for k in hold_out(train, order, 1):
            splits["valid"].append(train.pop(k))
