"""Measures the framework on the machine at hand: python src/bench.py device=cuda parts=[updates,start]"""

from svhn_vae.commands.bench import main

if __name__ == "__main__":
    main()
