# Targets of the study of elastic constants, on request.
#   results/<system>/studies/elastic/ablation/ablation.md: other cutoffs and resolutions, trained and measured
#   results/<system>/studies/elastic/influence/influence.md: influences against trainings without the structure
#   results/<system>/studies/elastic/faults/<fault>.md: a planted fault is found, named and mended (cheap labellers)
from mlip.studies.elastic.settings import FAULTS as ELASTIC_FAULTS
from mlip.studies.elastic.settings import PRESENT as ELASTIC_PRESENT

ELASTIC = CONFIG.studies.elastic
ELASTIC_VARIANTS = {ELASTIC_PRESENT: {}} | ELASTIC.ablation


wildcard_constraints:
    variant="|".join(map(re.escape, ELASTIC_VARIANTS)),
    fault="|".join(ELASTIC_FAULTS),


localrules:
    report_ablation,


rule ablate_elastic:
    input:
        structures=STRUCTURE_FILES,
        reference="results/{system}/studies/elastic/reference.nc",
        train=lambda wildcards: f"results/{wildcards.system}/iter_{last_iteration():02d}/collect_dataset/train.extxyz",
        valid=lambda wildcards: f"results/{wildcards.system}/iter_{last_iteration():02d}/collect_dataset/valid.extxyz",
        isolated="results/{system}/label_references/isolated_atoms.json",
        assessments=every_iteration("assess_potential/assessment.json"),
    output:
        result="results/{system}/studies/elastic/ablation/{variant}.json",
        potential=directory("results/{system}/studies/elastic/ablation/{variant}-potential"),
    log:
        "results/{system}/logs/studies/elastic/ablate_elastic-{variant}.log",
    benchmark:
        "results/{system}/studies/elastic/benchmarks/ablate_elastic-{variant}.tsv"
    conda:
        f"../{POTENTIAL_ENVIRONMENT}"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        change=lambda wildcards: ELASTIC_VARIANTS[wildcards.variant],
        plan={"n_steps": ELASTIC.ablation_steps, "tolerance": ELASTIC.tolerance},
        settings=final_settings("train"),
        source=CONFIG.structures[0].model_dump(mode="json"),
        seed=CONFIG.seed,
        code=code_digest("mlip.studies.elastic.experiments.ablation", "mlip.loop.train_committee", BACKEND.training_code),
    message:
        "ablate_elastic: {wildcards.variant}"
    script:
        "../../../scripts/ablate_elastic.py"


rule report_ablation:
    input:
        results=expand("results/{{system}}/studies/elastic/ablation/{variant}.json", variant=ELASTIC_VARIANTS),
        reference="results/{system}/studies/elastic/reference.nc",
    output:
        table="results/{system}/studies/elastic/ablation/ablation.md",
    log:
        "results/{system}/logs/studies/elastic/report_ablation.log",
    conda:
        "../../../envs/mlip.yaml"
    params:
        code=code_digest("mlip.studies.elastic.experiments.ablation"),
    message:
        "report_ablation: results/{wildcards.system}/studies/elastic/ablation/ablation.md"
    script:
        "../../../scripts/report_ablation.py"


rule omit_structures:
    input:
        structures=STRUCTURE_FILES,
        train=lambda wildcards: f"results/{wildcards.system}/iter_{last_iteration():02d}/collect_dataset/train.extxyz",
        isolated="results/{system}/label_references/isolated_atoms.json",
        assessments=every_iteration("assess_potential/assessment.json"),
    output:
        table="results/{system}/studies/elastic/influence/influence.md",
        result="results/{system}/studies/elastic/influence/influence.json",
        picture="results/{system}/studies/elastic/influence/influence.png",
    log:
        "results/{system}/logs/studies/elastic/omit_structures.log",
    benchmark:
        "results/{system}/studies/elastic/benchmarks/omit_structures.tsv"
    conda:
        f"../{POTENTIAL_ENVIRONMENT}"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        plan={"n": ELASTIC.n_omitted, "n_seeds": ELASTIC.omission_seeds},
        settings=final_settings("train"),
        source=CONFIG.structures[0].model_dump(mode="json"),
        seed=CONFIG.seed,
        code=code_digest("mlip.studies.elastic.experiments.omission", "mlip.loop.train_committee", BACKEND.training_code),
    message:
        "omit_structures: results/{wildcards.system}/studies/elastic/influence/influence.md"
    script:
        "../../../scripts/omit_structures.py"


rule mend_elastic:
    input:
        structures=STRUCTURE_FILES,
    output:
        page="results/{system}/studies/elastic/faults/{fault}.md",
        result="results/{system}/studies/elastic/faults/{fault}.json",
    log:
        "results/{system}/logs/studies/elastic/mend_elastic-{fault}.log",
    benchmark:
        "results/{system}/studies/elastic/benchmarks/mend_elastic-{fault}.tsv"
    conda:
        f"../{POTENTIAL_ENVIRONMENT}"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        settings=ELASTIC.model_dump(mode="json", include={"wrong_parameters", "n_labels"}),
        train=section("train"),
        label=label_settings,
        source=CONFIG.structures[0].model_dump(mode="json"),
        seed=CONFIG.seed,
        code=code_digest("mlip.studies.elastic.experiments.demonstration", "mlip.loop.train_committee", BACKEND.training_code),
    message:
        "mend_elastic: plant {wildcards.fault}, find and mend it"
    script:
        "../../../scripts/mend_elastic.py"
