"""The process that computes a label, apart from its parent: a crash or a hang costs one label.

May import: what the labels may; :mod:`mlip.labels.process.signals` nothing of ``mlip``.
"""
