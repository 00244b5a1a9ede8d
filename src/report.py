"""Writes the report of a study: python src/report.py outputs/STUDY"""

from svhn_vae.commands import run

if __name__ == "__main__":
    run("report")
