"""Files of another element than they stand for, and structures without the box that a code computes in."""

from __future__ import annotations

import pytest
from ase.build import bulk, molecule

from mlip.labels.codes.elements import content_for, read_element
from mlip.labels.codes.registry import CODES, find_code
from mlip.labels.guards import find_traps
from mlip.labels.importing import LabelError

HEADERS = {
    "UPF 2": '<UPF version="2.0.1">\n<PP_HEADER\n   generated="x"\n   element="{0:<2}"\n   pseudo_type="NC"',
    "UPF 1": "<PP_HEADER>\n   0                   Version Number\n  {0:<2}                   Element\n",
    "POTCAR": "  PAW_PBE {0} 05Jan2001\n   4.00000000000000\n parameters from PSCTR are:\n   VRHFIN ={0}: s2p2\n",
    "PSML": '<psml version="1.1">\n<provenance creator="x"/>\n<pseudo-atom-spec atomic-label="{0}"\n'
    ' atomic-number="{1}" z-pseudo="4" relativity="scalar">',
    "PSML with a prefix": '<psml:psml>\n<psml:pseudo-atom-spec relativity="no" atomic-number="{1}.00">',
    "psp8": "{0}    ONCVPSP-3.3.0  r_core=   1.6\n      {1}.0000      4.0000      170510    zatom,zion,pspd\n",
    "HGH": "Goedecker pseudopotential for {0}\n   {1}   4     070301 zatom,zion,pspdat\n",
    "PAW-XML": '<?xml version="1.0"?>\n<paw_dataset version="0.7">\n  <atom symbol="{0}" Z="{1}.0" core="10"/>\n',
    "aims": "#  FHI-aims code project\n  species        {0}\n#     global definitions\n    nucleus             {1}\n",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize(("symbol", "number"), [("Si", 14), ("C", 6)])
def test_the_element_of_a_file_is_read(tmp_path, header, symbol, number):
    path = tmp_path / "file"
    path.write_text(header.format(symbol, number))
    assert read_element(path) == symbol
    assert content_for(symbol, path, "here")["sha256"]
    with pytest.raises(LabelError, match=f"here: .*file is of {symbol}, and would stand for Al"):
        content_for("Al", path, "here")


SKF = "{at}0.02, 500\n-0.4 -0.3 -0.2 0.0 0.2 0.2 0.2 0 2 2\n{mass}{gap}-0.1 0.2 0.0 0.0 0.0 0.0 0.0 0.0 5.2 10*0.0\n"


@pytest.mark.parametrize(("at", "gap"), [("", " "), ("@ with f electrons\n", ", ")])
def test_slater_koster_files_say_their_element_by_its_mass(tmp_path, at, gap):
    """DFTB+ takes whatever lies below the name: of carbon in place of silicon, and says nothing."""
    code = find_code("ase.calculators.dftb.Dftb")
    path, profile = tmp_path / "Si-Si.skf", {"slako_dir": str(tmp_path)}
    for mass, element in ((28.09, "Si"), (12.01, "C"), (58.93, "Co"), (58.69, "Ni")):
        path.write_text(SKF.format(at=at, mass=mass, gap=gap))
        assert read_element(path) == element
    with pytest.raises(LabelError, match=r"slako_dir: .*Si-Si\.skf is of Ni, and would stand for Si"):
        code.element_files(["Si"], {}, profile)
    for unknown in (1.0, 0.0, 300.0):  # placeholders
        path.write_text(SKF.format(at=at, mass=unknown, gap=gap))
        assert code.element_files(["Si"], {}, profile)


@pytest.mark.parametrize(
    ("parameters", "name", "header"),
    [({}, "Si.lda.psf", " {0} ca nrl nc\n ATM3"), ({"xc": "PBE"}, "Si.gga.psf", " {0}  pb rel pcec\n"),
     ({"xc": "PBE", "pseudo_qualifier": ""}, "Si.psf", "{0} pb nrl nc"), ({"xc": "PBE"}, "Si.psml", HEADERS["PSML"]),
     ({"xc": ["GGA", "PBEsol"]}, "Si.gga.psf", " {0} ps nrl nc")],
)  # fmt: skip
def test_siestas_pseudopotentials_count_by_content_and_are_of_their_element(tmp_path, parameters, name, header):
    code = find_code("ase.calculators.siesta.Siesta")
    profile, path = {"command": "siesta"}, tmp_path / name
    parameters = parameters | {"pseudo_path": str(tmp_path)}
    with pytest.raises(LabelError, match=r"pseudo_path: .* has neither Si\..*psf nor Si\.psml"):
        code.element_files(["Si"], parameters, profile)
    path.write_text(header.format("Si", 14))
    first = code.element_files(["Si"], parameters, profile)
    path.write_text(path.read_text() + "another\n")
    assert code.element_files(["Si"], parameters, profile) != first
    path.write_text(header.format("Al", 13))
    with pytest.raises(LabelError, match=rf"{name} is of Al, and would stand for Si"):
        code.element_files(["Si"], parameters, profile)


def test_abinit_refuses_another_elements_pseudopotential(tmp_path):
    (tmp_path / "Si.psp8").write_text(HEADERS["psp8"].format("Al", 13))
    code = find_code("ase.calculators.abinit.Abinit")
    with pytest.raises(LabelError, match="psp8 is of Al, and would stand for Si"):
        code.element_files(["Si"], {"pps": "psp8"}, {"pp_paths": [str(tmp_path)]})


@pytest.mark.parametrize("text", ["", "Si ca nrl nc\n", 'element="XX"', "nucleus 14.5\n", "\x00\xff"])
def test_a_file_that_does_not_say_is_taken(tmp_path, text):
    path = tmp_path / "file"
    path.write_text(text)
    assert read_element(path) is None
    assert content_for("Al", path, "here")["sha256"]


def test_quantum_espresso_refuses_another_elements_pseudopotential(tmp_path):
    """pw.x itself labels silicon with aluminium's, 51 eV/atom away, and says nothing."""
    (tmp_path / "Si.UPF").write_text(HEADERS["UPF 2"].format("Al"))
    code = find_code("ase.calculators.espresso.Espresso")
    with pytest.raises(LabelError, match=r"pseudopotentials\.Si: .*Si\.UPF is of Al"):
        code.identity({"pseudopotentials": {"Si": "Si.UPF"}}, {"command": "true", "pseudo_dir": str(tmp_path)})


def test_aims_refuses_another_elements_defaults(tmp_path):
    (tmp_path / "14_Si_default").write_text(HEADERS["aims"].format("Al", 13))
    code = find_code("ase.calculators.aims.Aims")
    with pytest.raises(LabelError, match="14_Si_default is of Al"):
        code.element_files(["Si"], {}, {"species_dir": str(tmp_path)})


def test_vasp_refuses_another_elements_potcar(tmp_path):
    folder = tmp_path / "potpaw_PBE" / "Si"
    folder.mkdir(parents=True)
    (folder / "POTCAR").write_text(HEADERS["POTCAR"].format("Al"))
    code = find_code("ase.calculators.vasp.Vasp")
    with pytest.raises(LabelError, match="POTCAR is of Al, and would stand for Si"):
        code.element_files(["Si"], {"xc": "PBE"}, {"pp_path": str(tmp_path)})


def test_codes_that_compute_in_a_box_ask_for_one():
    """pw.x said `nsym == 0` of a molecule without a cell, CP2K `det(h) is too small`."""
    asking = {"GPAW", "pw.x", "CP2K", "VASP", "ABINIT"}
    assert asking < {code.name for code in CODES}
    for code in CODES:
        code.check_cell(molecule("H2O", vacuum=4.0))
        if code.name not in asking:
            code.check_cell(molecule("H2O"))
            continue
        with pytest.raises(LabelError, match=r"H2O has no cell.*vacuum"):
            code.check_cell(molecule("H2O"))


def test_no_mesh_is_no_mesh_however_it_is_written():
    calculator = "ase.calculators.espresso.Espresso"
    assert any("Γ only" in text for text in find_traps(bulk("Si"), calculator, {"kpts": None}))
    assert not any("Γ only" in text for text in find_traps(bulk("Si"), calculator, {"kpts": [2, 2, 2]}))
