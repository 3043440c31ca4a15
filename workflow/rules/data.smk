localrules:
    import_data,


rule import_data:
    input:
        data=DATA_FILES,
    output:
        structures="results/{system}/iter_00/import_data/data.extxyz",
        records="results/{system}/iter_00/import_data/data.json",
    log:
        "results/{system}/logs/iter_00/import_data.log",
    benchmark:
        "results/{system}/iter_00/benchmarks/import_data.tsv"
    conda:
        "../../envs/mlip.yaml"
    params:
        sources=DATA_SOURCES,
        screens=import_screens,
        alone=CONFIG.prepare.n_structures == 0,
        seed=CONFIG.seed,
        code=code_of_step("import_data"),
    message:
        "iter_00 import_data: read, screen and judge existing data"
    script:
        "../../scripts/import_data.py"


rule relabel_data:
    input:
        structures="results/{system}/iter_00/import_data/data.extxyz",
    output:
        comparison="results/{system}/iter_00/relabel_data/comparison.json",
    log:
        "results/{system}/logs/iter_00/relabel_data.log",
    benchmark:
        "results/{system}/iter_00/benchmarks/relabel_data.tsv"
    conda:
        "../../envs/dft.yaml"
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(240),
    params:
        settings=label_settings,
        sources=DATA_SOURCES,
        seed=CONFIG.seed,
        code=code_of_step("relabel_data"),
    message:
        "iter_00 relabel_data: label some existing data again and compare"
    script:
        "../../scripts/relabel_data.py"
