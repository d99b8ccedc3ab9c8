"""`python -m nncompile`: the command line."""

from nncompile.cli import main

main()
