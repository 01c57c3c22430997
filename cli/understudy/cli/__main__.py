"""`python -m understudy.cli` is `understudy`."""

from understudy.cli.main import main

main()
