"""Exports the model of a finished run, with a card: python src/export.py run=outputs/STUDY/RUN to=FOLDER"""

from svhn_vae.commands import run

if __name__ == "__main__":
    run("export")
