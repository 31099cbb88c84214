"""`python -m hrnet_zoo`."""

from hrnet_zoo.cli import main

if __name__ == "__main__":
    main()
