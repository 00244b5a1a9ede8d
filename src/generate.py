"""Draws pictures of a finished run: python src/generate.py run=outputs/STUDY/RUN pictures=[samples,analogies]"""

from svhn_vae.commands import run

if __name__ == "__main__":
    run("generate")
