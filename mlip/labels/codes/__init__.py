"""What is particular to each code that computes labels: one small module a code, found by import path.

May import: ``mlip.labels.importing``, ``mlip.labels.contents`` and ``mlip.labels.triage`` besides what
``mlip.labels`` may. None of them imports a calculator before it is needed.
"""
