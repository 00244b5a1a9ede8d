"""Trains, tests and compares VAEs: python src/train.py -m variance=relu_eps,logvar pca.whiten=false,true"""

from svhn_vae.commands import run

if __name__ == "__main__":
    run("train")
