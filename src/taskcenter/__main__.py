"""`python -m taskcenter` is `taskcenter`."""

from taskcenter.cli import app

app()
