"""Training: data, schedule, consistency and calibration for every backend; the backends' own beside one another.

May import: ``mlip.potential`` and below. :mod:`mlip.loop.train_committee` starts it.
"""
