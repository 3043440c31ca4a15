"""What Snakemake's Slurm plugin writes into a job's comment."""

from __future__ import annotations

import re

from mlip.config.study import study_names
from mlip.jobs.attempts import Job

STUDY = "|".join(map(re.escape, study_names()))


def job_of(comment: str, system: str) -> Job | None:
    """The job that a comment of Snakemake's Slurm plugin names; None for another system's.

    Such as ``rule_label_structures_wildcards_silicon_00_003``, in a study
    ``rule_label_candidates_wildcards_silicon_eos_01_003``.
    """
    found = re.fullmatch(r"rule_(\w+?)_wildcards_(.+)", comment.strip())
    if found is None or not (found.group(2) + "_").startswith(f"{system}_"):
        return None
    rule, rest = found.group(1), found.group(2)[len(system) + 1 :]
    if not rest:
        return Job(None, rule)
    if match := re.fullmatch(rf"({STUDY})((?:_\d{{2,3}})*)", rest):
        return Job(None, rule, match.group(2)[1:].replace("_", "-"), match.group(1))
    if match := re.fullmatch(rf"(\d{{2,3}})(?:_(\d{{2,3}}|{STUDY}))?", rest):
        return Job(int(match.group(1)), rule.removesuffix("_in_loop"), match.group(2) or "")
    return None
