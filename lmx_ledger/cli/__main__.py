"""`python -m lmx_ledger.cli` is `lmx`."""

from lmx_ledger.cli.main import lmx

if __name__ == "__main__":
    lmx(prog_name="lmx")
