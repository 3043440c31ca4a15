"""What has to be there before a run: packages, PAW data sets, partitions, the configuration itself.

May import: ``mlip.studies`` and below; of a potential its internals, which it tries.
"""
