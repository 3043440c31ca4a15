"""A made-up study, which tests put into a copy of the tree: ``mlip/studies/softness``."""
