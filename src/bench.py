"""Measures the framework on the machine at hand: python src/bench.py device=cuda"""

from svhn_vae.commands import run

if __name__ == "__main__":
    run("bench")
