"""Elastic constants of a crystal: symmetry, strains, internal strain."""
