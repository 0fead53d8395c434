"""`python -m cdrmix.train CONFIG …` is `cdrmix train CONFIG …`: what `torchrun -m` starts in each process."""

import sys

from cdrmix.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
