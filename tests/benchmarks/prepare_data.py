"""The data sets: a folder each with train, valid and test structures as extended XYZ.

The source is a folder with ``mlearn/<element>_<training|test>.extxyz`` and ``acac/<name>.xyz``, or the
repositories the data were published in:

- mlearn: Zuo et al., J. Phys. Chem. A 124, 731 (2020), materialsvirtuallab/mlearn, BSD-3-Clause;
- acac: Batatia et al., arXiv:2205.06643, davkovacs/BOTNet-datasets, MIT.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

ACAC_URL = "https://raw.githubusercontent.com/davkovacs/BOTNet-datasets/main/dataset_acac/{name}"
MLEARN_URL = "https://raw.githubusercontent.com/materialsvirtuallab/mlearn/master/data/{element}/{split}.json"
ACAC_FILES = {
    "train_300K.xyz": "8f5706d6902360555a5be59395612d2afc3489a75688388a58e7275fdad68af3",
    "test_MD_300K.xyz": "2291f3186a3cc6a5e05e92952c84a9237ca53f862d78fd3316a769360719ec43",
    "test_MD_600K.xyz": "d5a5bba154ec43f915eb7529f86ec3af60e6f911743859daba030181a0378ff7",
    "test_dihedral.xyz": "0c2246a593579de5a4450698d5f4ba5802b095824b7f211aa5889339967c6809",
    "test_H_transfer.xyz": "ea4d76c79cf4cfccd2f93eaf755172b0b648886c4907eb0f82dff07a77530743",
    "isolated_atoms.xyz": "b74f321b453374621b447d65c60979f70df1b7182c8ee0215388b2c574f33823",
}
"""SHA-256 of the files as published."""
MLEARN_DIGESTS: dict[tuple[str, str], str] = {
    ("Si", "training"): "4eb88ccf7842749b509a73021a3d901ba7ebb1a0085021a9d3b556d27a04230d",
    ("Si", "test"): "5a63f360136837bbbc3743c5e21bd24bc20e8ad95c7440b55ffe7b371cadd05f",
    ("Li", "training"): "9995a8349915e478effe6ac0306c7e668d6fd6b0dc0af5655aa41493a8c10100",
    ("Li", "test"): "96b48ea2d5bbb2c2028bddcb80a35951aa6b2162dd3978725beea5cef34b9da1",
}
"""SHA-256 of the structures of each file in any order, see :func:`digest`; other elements are not checked."""


def digest(structures: Sequence[Atoms]) -> str:
    """SHA-256 of formulas and energies (to 1e-6 eV), whatever the order and the file format."""
    lines = sorted(f"{a.get_chemical_formula()} {a.get_potential_energy():.6f}" for a in structures)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def download(url: str) -> bytes:
    """The file at ``url``, which is one of the constants above."""
    with urllib.request.urlopen(url, timeout=120) as response:
        content: bytes = response.read()
    return content


def parse_mlearn(entry: dict[str, Any]) -> Atoms:
    """A structure of mlearn's JSON; its virial stress is VASP's, in kbar, xx yy zz xy yz zx."""
    sites = entry["structure"]["sites"]
    atoms = Atoms(
        [site["species"][0]["element"] for site in sites],
        positions=[site["xyz"] for site in sites],
        cell=entry["structure"]["lattice"]["matrix"],
        pbc=True,
    )
    outputs = entry["outputs"]
    stress = -0.1 * units.GPa * np.array(outputs["virial_stress"])[[0, 1, 2, 4, 5, 3]]
    atoms.info["config_type"] = entry["group"]
    atoms.calc = SinglePointCalculator(
        atoms, energy=outputs["energy"], forces=np.array(outputs["forces"]), stress=stress
    )
    return atoms


def load_mlearn(element: str, split: str, source: Path | None) -> list[Atoms]:
    """Structures of ``split`` (training or test), from ``source`` or from the repository."""
    if source is not None:
        structures = read(source / "mlearn" / f"{element}_{split}.extxyz", ":")
        assert isinstance(structures, list)
    else:
        structures = [parse_mlearn(e) for e in json.loads(download(MLEARN_URL.format(element=element, split=split)))]
    expected = MLEARN_DIGESTS.get((element, split))
    if expected is not None and digest(structures) != expected:
        raise ValueError(f"mlearn {element} {split} is not the published data: digest {digest(structures)}")
    return structures


def load_acac(name: str, source: Path | None, cache: Path) -> list[Atoms]:
    """Structures of the file ``name``, from ``source`` or from the repository."""
    content = (source / "acac" / name).read_bytes() if source is not None else download(ACAC_URL.format(name=name))
    found = hashlib.sha256(content).hexdigest()
    if found != ACAC_FILES[name]:
        raise ValueError(f"acac {name} is not the published file: its SHA-256 is {found}, not {ACAC_FILES[name]}")
    path = cache / name
    path.write_bytes(content)
    structures = read(path, ":", format="extxyz")
    path.unlink()
    assert isinstance(structures, list)
    return structures


def split_train(structures: list[Atoms], fraction: float, seed: int) -> tuple[list[Atoms], list[Atoms]]:
    """Training and validation structures; settings are chosen on the latter."""
    order = np.random.default_rng(seed).permutation(len(structures))
    n_valid = round(fraction * len(structures))
    valid = set(order[:n_valid].tolist())
    return [a for i, a in enumerate(structures) if i not in valid], [structures[i] for i in sorted(valid)]


def main() -> None:
    """Write the data set ``--dataset`` into ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="`acac`, or an element of mlearn")
    parser.add_argument("--source", type=Path, help="folder with the data; they are downloaded without one")
    parser.add_argument("--valid-fraction", type=float, default=0.06)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.dataset == "acac":
        training = load_acac("train_300K.xyz", given.source, given.out)
        tests = {n[:-4]: load_acac(n, given.source, given.out) for n in ACAC_FILES if n.startswith("test")}
        isolated = load_acac("isolated_atoms.xyz", given.source, given.out)
        energies = {a.get_chemical_symbols()[0]: a.get_potential_energy() for a in isolated}
        (given.out / "isolated.json").write_text(json.dumps(energies) + "\n")
    else:
        training = load_mlearn(given.dataset, "training", given.source)
        tests = {"test": load_mlearn(given.dataset, "test", given.source)}
    train, valid = split_train(training, given.valid_fraction, given.seed)
    for name, structures in {"train": train, "valid": valid, **tests}.items():
        write(given.out / f"{name}.extxyz", structures, format="extxyz")


if __name__ == "__main__":
    main()
