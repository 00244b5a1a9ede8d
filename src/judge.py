"""Trains the judge of a data set, or finds it: python src/judge.py data.root=FOLDER data.verify=none"""

from svhn_vae.commands import run

if __name__ == "__main__":
    run("judge")
