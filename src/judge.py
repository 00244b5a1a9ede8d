"""Trains the judge of a data set, or finds it: python src/judge.py data.root=FOLDER data.verify=none"""

from svhn_vae.commands.judge import main

if __name__ == "__main__":
    main()
