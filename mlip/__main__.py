"""``python -m mlip``: what torchrun and machines without the ``mlip`` script start."""

from mlip.cli import app

app()
