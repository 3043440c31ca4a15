"""What has to be there before a run: packages, PAW data sets, partitions, the configuration itself.

May import: everything but ``mlip.cli`` and ``mlip.status``.
"""
