"""`python -m perturb` is the same as `perturb`."""

from perturb.cli import main

if __name__ == "__main__":
    main()
