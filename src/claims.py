"""Prints the verdicts of all studies on their hypotheses: python src/claims.py"""

from svhn_vae.commands import run

if __name__ == "__main__":
    run("claims")
