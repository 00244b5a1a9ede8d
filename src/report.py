"""Writes the report of a study: python src/report.py outputs/STUDY"""

from svhn_vae.commands.report import main

if __name__ == "__main__":
    main()
