"""Write schemas/embeddings/: vectors for the shipped taxonomies, the demo and everyday names.

    python scripts/build_embeddings.py [--new-mean]

The mean of an existing file stays, so that new words change no known vector and old runs still fit.
"""

import argparse
import re
from pathlib import Path

import numpy as np
from build_taxonomies import LISTS, WORDS, lines

from segkit.demo.scenes import names as demo_names
from segkit.taxonomy import known_taxonomies, load_taxonomy, normalize
from segkit.text.embeddings import EmbeddingStore
from segkit.text.encoders import MINILM_MODEL
from segkit.text.encoding import SHIPPED
from segkit.text.table import EmbeddingTable, read_table, unit, write_table

OUT = Path(__file__).parents[1] / "schemas" / "embeddings" / f"{MINILM_MODEL.lower()}.safetensors"
OTHER_LISTS = ("mapillary-public65", "sunrgbd-37", "scannet-20", "coco-panoptic-201")


def taxonomy_words() -> set[str]:
    """Every word of the shipped taxonomies."""
    return {
        normalize(word)
        for name in known_taxonomies()
        for category in load_taxonomy(name).categories
        for word in category.words
    }


def other_words(lists: Path) -> set[str]:
    """Words beyond the shipped taxonomies.

    The demo's, everyday ones, and the names of four more class lists.
    """
    written = [word for row in WORDS["words"].values() for word in row.split(",")]
    listed = [name for list_ in OTHER_LISTS for name in lines(lists / f"{list_}_names.txt")]
    plain = [name for name in listed if not re.search(r"-(merged|other|stuff)\b", name)]
    return {normalize(word) for word in (*written, *plain, *demo_names())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lists", type=Path, default=LISTS)
    parser.add_argument(
        "--new-mean",
        action="store_true",
        help="recompute the mean, which changes every vector: old runs no longer fit",
    )
    options = parser.parse_args()
    known = taxonomy_words()
    words = sorted(known | other_words(options.lists))
    # A source's misspelt name keeps its key and gets the vector of the correct word.
    raw = EmbeddingStore().encode_raw([WORDS["meant"].get(word, word) for word in words])
    if OUT.is_file() and not options.new_mean:
        mean = read_table(OUT).mean
    else:
        mean = (
            raw[[word in known for word in words]].mean(axis=0, dtype=np.float64).astype(np.float32)
        )
    rows = dict(zip(words, unit(raw - mean), strict=True))
    write_table(OUT, EmbeddingTable(rows, mean, None), SHIPPED)
    print(f"{len(words)} words, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
