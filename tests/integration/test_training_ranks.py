"""GPUs that a profile gives to the rule of training are processes that train."""

import os
from pathlib import Path

import pytest

from mlip.io.files import read_json
from tests.workflow.conftest import Workflow

# Every Python imports it at its start; torchrun tells its processes who they are.
WITNESS = """
import os
from pathlib import Path
if "RANK" in os.environ:
    Path(os.environ["WITNESSED"], f"rank-{os.environ['RANK']}-of-{os.environ['WORLD_SIZE']}").touch()
"""


@pytest.mark.slow
@pytest.mark.parametrize("resource", ["gres=gpu:2", "gpu=2"])
def test_two_gpus_of_the_rule_are_two_processes(tmp_path: Path, resource: str) -> None:
    """On the CPU, where torchrun and the sums over processes are the same."""
    loop = Workflow(tmp_path)
    loop.write_config(loop.config | {"train": loop.config["train"] | {"n_steps": 4, "batch_size": 4}})
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WITNESS)
    loop.snakemake(
        *("--cores", "1", "results/tiny/iter_00/train_committee/potential.json"),
        *("--set-resources", f"train_committee:{resource}"),
        PYTHONPATH=os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])),
        WITNESSED=str(site),
        MLIP_DEVICE="cpu",
    )
    assert {path.name for path in site.glob("rank-*")} == {"rank-0-of-2", "rank-1-of-2"}
    assert read_json(loop.results / "iter_00" / "train_committee" / "potential.json")["species"] == ["Cu"]
