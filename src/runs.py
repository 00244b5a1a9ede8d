"""Lists all studies and their runs: python src/runs.py"""

from svhn_vae.commands import run

if __name__ == "__main__":
    run("runs")
