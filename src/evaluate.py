"""Scores a finished run again: python src/evaluate.py run=outputs/STUDY/RUN iw_samples=64 judge=true"""

from svhn_vae.commands import run

if __name__ == "__main__":
    run("evaluate")
