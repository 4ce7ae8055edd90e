"""Write scikit-learn's handwritten digits as a table: one row for each of the 64 pixels of 1,797 images.

A task is one image: from the ink of some pixels, predict that of others by their row and column. scikit-learn comes
with MLflow, the data with scikit-learn.

    python examples/digits_table.py data/digits.csv
"""

import csv
import sys
from pathlib import Path

from sklearn.datasets import load_digits


def main(path: Path) -> None:
    """Writes the table.

    Args:
        path: the CSV file to make, its folder too.
    """
    digits = load_digits()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("image", "digit", "row", "column", "ink"))
        for number, (image, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
            for row, line in enumerate(image):
                table.writerows((f"{number:04}", digit, row, column, ink) for column, ink in enumerate(line))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("expected the file to write: python examples/digits_table.py data/digits.csv")
    main(Path(sys.argv[1]))
