"""Prints the verdicts of all studies on their hypotheses, and writes them to claims.md: python src/claims.py"""

import argparse
from pathlib import Path

from svhn_vae.report.claims import NOTE, gather, markdown, reasons, table
from svhn_vae.report.table import wide_console
from svhn_vae.runs.files import replacing
from svhn_vae.runs.installation import CONF, program

EXPERIMENTS = CONF / "experiment" / "claims"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=program(), description="Prints what the runs say of the claims that experiments state."
    )
    parser.add_argument("outputs", type=Path, nargs="?", default=Path("outputs"), help="the folder of the studies")
    parser.add_argument(
        "--experiments", type=Path, default=EXPERIMENTS, help="the folder of those that may not have run"
    )
    parser.add_argument("--markdown", action="store_true", help="prints what is in claims.md")
    asked = parser.parse_args()
    if not asked.outputs.is_dir():
        parser.error(f"no folder {asked.outputs}: expected the folder of the studies, such as outputs")
    claims = gather(asked.outputs, asked.experiments)
    if not claims.found and not claims.damaged:
        parser.exit(
            1, f"no claims: neither a study under {asked.outputs} nor {asked.experiments} states a hypothesis\n"
        )
    text = markdown(claims)
    with replacing(asked.outputs / "claims.md") as beside:
        beside.write_text(text, encoding="utf-8")
    if asked.markdown:
        print(text, end="")
        return
    console = wide_console()
    console.print(table(claims, console.width))
    for line in [*NOTE, *reasons(claims), *claims.damaged]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
