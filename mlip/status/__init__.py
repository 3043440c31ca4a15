"""What a loop is doing, what it has cost and what is to come, for people.

May import: everything but ``mlip.cli`` and ``mlip.doctor``.
"""
