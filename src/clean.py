"""Says which run folders it would delete, and deletes them with yes=true: python src/clean.py"""

from svhn_vae.commands import run

if __name__ == "__main__":
    run("clean")
