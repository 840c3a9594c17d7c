"""``python -m kproxy.cli``: the same as ``kproxy``."""

from kproxy.cli.main import main

if __name__ == "__main__":
    main(prog_name="kproxy")
