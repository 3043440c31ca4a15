"""The steps of the loop, a module each, named as rule, script and output folder are.

May import: ``mlip.labels``, ``mlip.training``, ``mlip.potential`` and below; training itself is :mod:`mlip.training`.
"""
