"""Compare prompt templates, centered and not: the table in segkit/text/embeddings.py.

    python scripts/experiment_templates.py

Synonyms from different vocabularies should be close to each other, other words far apart. Columns:
mean cosine of all pairs of words, mean cosine of the synonyms, their distance from all pairs in
standard deviations (z), the chance that a pair of synonyms is closer than a random pair (AUC), and
how often the partner is the nearest or second nearest word.
"""

import argparse

import numpy as np
from experiments import run_script
from numpy.typing import NDArray

from segkit.text.embeddings import EmbeddingStore
from segkit.text.encoding import Encoding
from segkit.text.table import unit

SYNONYMS = """
    circle/disc; square/square block; triangle/triangular shape; star/five-pointed star;
    ring/hoop; cross/cruciform; crescent/crescent moon; grass/lawn; water/pond; sand/beach;
    brick wall/brickwork; sofa/couch; person/pedestrian; tv/television; motorcycle/motorbike;
    airplane/aeroplane; sidewalk/pavement; refrigerator/fridge; trash can/dustbin; rug/carpet;
    bicyclist/cyclist; road/street; rock/stone; bicycle/bike; cell phone/mobile phone;
    car/automobile; life buoy/lifebuoy; window/windowpane; traffic light/traffic signal;
    clothes/apparel; toy/plaything; basin/bowl; necktie/tie; donut/doughnut; ship/boat;
    truck/heavy truck; stairs/stairway; curtain/drapery; poster/placard; cushion/pillow;
    tree/palm tree; picture/painting; banister/handrail; pier/dock; wardrobe/closet;
    column/pillar; earth/ground; monitor/crt screen; remote control/controller
    """
PAIRS = [tuple(pair.strip().split("/")) for pair in SYNONYMS.split(";")]
TEMPLATES = {
    "plain name": ["{}"],
    "a photo of a {}.": ["a photo of a {}."],
    "there is a {} in the scene.": ["there is a {} in the scene."],
    "{} in an image": ["{} in an image"],
    "mean of 7": [
        *("{}", "a photo of a {}.", "a {} in a scene.", "{} in an image"),
        *("this is a {}.", "a picture of {}.", "a close-up photo of the {}."),
    ],
}


def evaluate(rows: NDArray[np.float32], index: dict[str, int]) -> tuple[float, ...]:
    """The five columns for unit rows of the words in `index`."""
    similarity = rows @ rows.T
    all_pairs = similarity[~np.eye(len(rows), dtype=bool)]
    ordered = np.sort(all_pairs)
    pairs = [(index[a], index[b]) for a, b in PAIRS]
    synonyms = np.array([similarity[a, b] for a, b in pairs])
    closer = np.searchsorted(ordered, synonyms) / len(ordered)
    # A word is its own nearest one: rank 3 is the second nearest of the rest.
    ranks = [
        (similarity[a] >= similarity[a, b]).sum() for pair in pairs for a, b in (pair, pair[::-1])
    ]
    z = (synonyms.mean() - all_pairs.mean()) / all_pairs.std()
    return all_pairs.mean(), synonyms.mean(), z, closer.mean(), 100 * np.mean(np.array(ranks) <= 3)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    words = sorted(EmbeddingStore().vectors())
    index = {word: i for i, word in enumerate(words)}
    print(f"{len(words)} words, {len(PAIRS)} pairs\n{'':40s}   mean synonym    z    AUC  near %")
    for name, templates in TEMPLATES.items():
        raw = EmbeddingStore(Encoding(templates=tuple(templates))).encode_raw(words)
        for label, rows in ((name, raw), (f"{name}, centered", unit(raw - raw.mean(axis=0)))):
            print(
                "{:40s} {:6.2f} {:7.2f} {:4.1f} {:6.3f} {:7.0f}".format(
                    label, *evaluate(rows, index)
                )
            )


if __name__ == "__main__":
    run_script(main)
