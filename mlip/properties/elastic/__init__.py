"""Elastic constants of a crystal: symmetry, strains, internal strain. The study of them is mlip.studies.elastic."""
