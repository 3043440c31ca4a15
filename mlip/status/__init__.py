"""What a loop is doing, what it has cost and what is to come, for people.

May import: ``mlip.studies`` and below.
"""
