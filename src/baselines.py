"""Scores models without a network: python src/baselines.py data.root=FOLDER data.verify=none"""

from svhn_vae.commands import run

if __name__ == "__main__":
    run("baselines")
