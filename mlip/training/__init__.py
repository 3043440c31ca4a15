"""Training: data, schedule, consistency and calibration for every backend; the backends' own beside one another.

May import: ``mlip.properties``, ``mlip.dynamics`` and below; of a potential its internals, which it fits.
:mod:`mlip.loop.train_committee` starts it.
"""
