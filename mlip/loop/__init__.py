"""The steps of the loop, a module each, named as rule, script and output folder are.

May import: ``mlip.labels``, ``mlip.export`` and below; of a potential its interface alone.
"""
