"""`python -m selfalign`: the same as the console script."""

from selfalign.cli import main

main()
