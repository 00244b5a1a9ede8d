"""Prints the verdicts of all studies on their hypotheses: python src/claims.py"""

from svhn_vae.commands.claims import main

if __name__ == "__main__":
    main()
