"""Searches settings that train well: python src/search.py study=NAME optimizer.lr='interval(1e-4,1e-2)'"""

from svhn_vae.commands import run

if __name__ == "__main__":
    run("search")
