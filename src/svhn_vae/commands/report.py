"""Writes the report of a study, a page, and prints its table: python src/report.py outputs/<study>"""

import argparse
from pathlib import Path

from svhn_vae.report.collect import read_runs
from svhn_vae.report.page import write_report
from svhn_vae.report.table import print_study, wide_console
from svhn_vae.runs.installation import program


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=program(), description="Writes a study's report, a page, and prints its table, best first."
    )
    parser.add_argument("study", type=Path, help="the study's folder, for instance outputs/demo")
    study = parser.parse_args().study
    if not read_runs(study):
        parser.error(f"{study} holds no runs: expected a study's folder, such as outputs/demo")
    print_study(study, wide_console())
    print(f"report:      {write_report(study)}")


if __name__ == "__main__":
    main()
