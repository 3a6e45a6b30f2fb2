"""Draw docs/architecture.svg: the data flow, and the rooms of the package above those they import.

    python scripts/architecture.py            # write the drawing
    python scripts/architecture.py --check    # exit code 1 if the drawing is out of date

The lower part comes from the imports in the source. A room stands on the lowest floor above all
rooms that it imports. An arrow is left out if it follows from others: A imports B and B imports C.
"""

import argparse
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import mean

from structure import FLOORS, ROOT, reachable, read_modules, room_graph

DRAWING = ROOT / "docs" / "architecture.svg"
WIDTH = 1000
FOUNDATION = FLOORS[0]
"""Rooms that every other room may import; drawn as one box, without arrows."""
ROOMS: Mapping[str, tuple[str, str]] = {
    "masks": ("label", "run lengths, boxes, IoU"),
    "images": ("label", "decode and draw"),
    "text": ("label", "class names to vectors"),
    "shards": ("label", "read and write shard sets"),
    "workers": ("label", "processes and Ray"),
    "sources": ("label", "native data to samples"),
    "export": ("label", "samples to native data"),
    "recipes": ("train", "configuration as TOML"),
    "data": ("train", "mix, augment, batch"),
    "model": ("train", "images to masks, classes"),
    "criterion": ("train", "match and compute losses"),
    "training": ("train", "Trainer and checkpoints"),
    "zeroshot": ("train", "class heads, no examples"),
    "runs": ("predict", "trained models on disk"),
    "inference": ("predict", "Predictor and pseudolabel"),
    "metrics": ("measure", "PQ, mIoU, AP"),
    "benchmark": ("measure", "published protocols"),
    "report": ("measure", "evaluation as HTML"),
    "browse": ("measure", "FiftyOne App"),
    "demo": ("use", "every stage, end to end"),
    "segkit": ("use", "public names"),
    "commands": ("use", "one file per verb"),
}
"""Color and purpose of each room."""
STYLE = """
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:#1f2733}
.page{fill:#ffffff}
.title{font-size:17px;font-weight:600}
.lead,.purpose{font-size:11.5px;fill:#596475}
.name{font-size:14.5px;font-weight:600}
.files{font-size:10.5px;fill:#7b8594}
.step{font-size:11.5px;fill:#596475}
.box{stroke-width:1.4}
.label{fill:#e8f1fb;stroke:#3c78b4}
.train{fill:#efeafb;stroke:#7558b8}
.predict{fill:#e5f5ec;stroke:#35855a}
.measure{fill:#fdf0e2;stroke:#b9742a}
.use{fill:#f3f4f6;stroke:#7b8594}
.store{fill:#1f2733;stroke:none}
.store-name{font-size:15px;font-weight:600;fill:#ffffff}
.store-text{font-size:11px;fill:#d5dae2}
.edge{fill:none;stroke-width:1.3;opacity:.75}
.edge.label{stroke:#3c78b4}.edge.train{stroke:#7558b8}.edge.predict{stroke:#35855a}
.edge.measure{stroke:#b9742a}.edge.use{stroke:#7b8594}
.flow{fill:none;stroke:#1f2733;stroke-width:2}
.tip{fill:#1f2733}
@media (prefers-color-scheme:dark){
text{fill:#e6e9ef}.page{fill:#14181f}
.lead,.purpose,.step{fill:#a5afbd}.files{fill:#8b95a3}
.label{fill:#1b2a3b}.train{fill:#272140}.predict{fill:#18301f}
.measure{fill:#35260f}.use{fill:#22272f}
.store{fill:#e6e9ef}.store-name{fill:#14181f}.store-text{fill:#39424f}
.flow{stroke:#e6e9ef}.tip{fill:#e6e9ef}
}
"""


def text(x: float, y: float, content: str, style: str, anchor: str = "middle") -> str:
    """Write a line of text."""
    place = f'x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"'
    return f'<text class="{style}" {place}>{escape(content)}</text>'


def box(x: float, y: float, width: float, height: float, style: str) -> str:
    """Draw a rounded rectangle."""
    size = f'width="{width:.0f}" height="{height:.0f}" rx="8"'
    return f'<rect class="{style}" x="{x:.0f}" y="{y:.0f}" {size}/>'


class FlowPanel:
    """The data flow: a loop through the two things that segkit stores, shard sets and runs."""

    ROWS = (96, 184, 272)
    """Tops of the three rows of boxes."""
    HEIGHT = 56

    def __init__(self) -> None:
        self.parts: list[str] = []

    def draw(self) -> str:
        """Return the panel's SVG elements."""
        lead = (
            "Ground truth, pseudo-masks and predictions are the same rows: (mask, class) pairs in a"
            " shard set. A run is all that training passes on."
        )
        self.parts = [
            text(30, 40, "Data flow", "title", "start"),
            text(30, 60, lead, "lead", "start"),
        ]
        first, second, third = self.ROWS
        rooms = {"sources": (165, first), "export": (165, second), "browse": (165, third)}
        rooms |= {"metrics": (352, third), "report": (484, third), "inference": (596, second)}
        steps = ("data", "model", "criterion", "training")
        rooms |= {room: (442 + 108 * number, first) for number, room in enumerate(steps)}
        for room, (x, y) in rooms.items():
            self._room(room, x, y, 86 if room in steps else 108)
        self._native(first)
        self._native(second)
        self._store(300, 116, "shard set", ("images: tar", "labels: Parquet"))
        self._store(880, 90, "run", ("weights", "classes", "recipe"))
        top, middle, bottom = (y + self.HEIGHT // 2 for y in self.ROWS)
        ends = (122, 165), (273, 300), (416, 442), (528, 550), (636, 658), (744, 766), (852, 880)
        for start, end in ends:
            self._arrow(f"M{start} {top}H{end}")
        for start, end in ((880, 704), (596, 416), (300, 273), (165, 122)):
            self._arrow(f"M{start} {middle}H{end}")
        self._arrow(f"M322 {second + self.HEIGHT}V{bottom}H273")
        self._arrow(f"M390 {second + self.HEIGHT}V{third}")
        self._arrow(f"M460 {bottom}H484")
        self.parts.append(text(506, middle - 8, "predictions, pseudo-masks", "step"))
        return "\n".join(self.parts)

    def _room(self, room: str, x: float, y: float, width: float) -> None:
        style, _ = ROOMS[room]
        self.parts.append(box(x, y, width, self.HEIGHT, f"box {style}"))
        self.parts.append(text(x + width / 2, y + 33, room, "name"))

    def _native(self, y: float) -> None:
        self.parts.append(text(72, y + 25, "COCO, ADE20K,", "step"))
        self.parts.append(text(72, y + 41, "boxes, PNGs ...", "step"))

    def _store(self, x: float, width: float, name: str, lines: Sequence[str]) -> None:
        top, bottom = self.ROWS[0], self.ROWS[1] + self.HEIGHT
        center, middle = x + width / 2, (top + bottom) / 2
        self.parts.append(box(x, top, width, bottom - top, "store"))
        self.parts.append(text(center, middle - 10, name, "store-name"))
        for number, line in enumerate(lines):
            self.parts.append(text(center, middle + 10 + 16 * number, line, "store-text"))

    def _arrow(self, path: str) -> None:
        self.parts.append(f'<path class="flow" d="{path}" marker-end="url(#tip)"/>')


class FloorPanel:
    """The rooms on floors, with an arrow from each room to those that it imports."""

    TOP, FLOOR, GAP = 362, 104, 42
    BOX_WIDTH, DUMMY_WIDTH, SPACE = 172.0, 10.0, 18.0

    def __init__(self, graph: Mapping[str, set[str]], files: Mapping[str, int]) -> None:
        self.files = files
        self.graph = {
            room: targets - {*FOUNDATION} for room, targets in graph.items() if room in ROOMS
        }
        self.floor = self._floors()
        self.chains = self._chains()
        self.rows = self._rows()
        self.x = self._positions()

    @property
    def height(self) -> int:
        """Height of the panel with its foundation."""
        return 70 + (max(self.floor.values()) + 2) * self.FLOOR - self.GAP + 20

    def _floors(self) -> dict[str, int]:
        """Return the floor of each room: one above the highest room that it imports."""
        floor: dict[str, int] = {}

        def level(room: str) -> int:
            if room not in floor:
                floor[room] = 1 + max(map(level, self.graph[room]), default=-1)
            return floor[room]

        for room in self.graph:
            level(room)
        return floor

    def _chains(self) -> list[list[str]]:
        """Return the arrows that do not follow from others, each as a chain of one node a floor.

        Nodes between the ends are named `room>target>floor`; they keep a path free between boxes.
        """
        chains = []
        for room in sorted(self.graph):
            targets = self.graph[room]
            implied = {end for target in targets for end in reachable(target, self.graph)}
            for target in sorted(targets - implied):
                between = range(self.floor[room] - 1, self.floor[target], -1)
                chains.append([room, *(f"{room}>{target}>{level}" for level in between), target])
        return chains

    def _rows(self) -> list[list[str]]:
        """Return the nodes of each floor from left to right, ordered for few crossings."""
        rows: list[list[str]] = [[] for _ in range(max(self.floor.values()) + 1)]
        for room, level in sorted(self.floor.items()):
            rows[level].append(room)
        for chain in self.chains:
            for node in chain[1:-1]:
                rows[int(node.rsplit(">", 1)[1])].append(node)
        neighbors = self._neighbors()
        for sweep in range(24):
            for row in rows if sweep % 2 else rows[::-1]:
                place = {
                    node: (number + 0.5) / len(nodes)
                    for nodes in rows
                    for number, node in enumerate(nodes)
                }
                row.sort(key=lambda node: mean(place[n] for n in neighbors[node] or [node]))
        return rows

    def _neighbors(self) -> dict[str, list[str]]:
        neighbors: dict[str, list[str]] = defaultdict(list)
        for chain in self.chains:
            for upper, lower in itertools.pairwise(chain):
                neighbors[upper].append(lower)
                neighbors[lower].append(upper)
        return neighbors

    def _positions(self) -> dict[str, float]:
        """Return the middle of each node: near its neighbors, without overlaps."""
        neighbors = self._neighbors()
        x: dict[str, float] = {}
        for row in self.rows:
            x |= self._spread(row, [WIDTH * (i + 0.5) / len(row) for i in range(len(row))])
        for _ in range(30):
            for row in self.rows:
                wishes = [mean(x[n] for n in (*neighbors[node], node)) for node in row]
                x |= self._spread(row, [0.9 * wish + 0.1 * WIDTH / 2 for wish in wishes])
        return x

    def _width(self, node: str) -> float:
        return self.BOX_WIDTH if node in self.floor else self.DUMMY_WIDTH

    def _spread(self, row: Sequence[str], wishes: Sequence[float]) -> dict[str, float]:
        """Place nodes at the wished positions, moved apart and into the drawing."""
        places: list[float] = []
        edge = 20.0
        for node, wish in zip(row, wishes, strict=True):
            half = self._width(node) / 2
            places.append(max(wish, edge + half))
            edge = places[-1] + half + self.SPACE
        edge = WIDTH - 20.0
        for number in range(len(row) - 1, -1, -1):
            half = self._width(row[number]) / 2
            places[number] = min(places[number], edge - half)
            edge = places[number] - half - self.SPACE
        return dict(zip(row, places, strict=True))

    def _y(self, level: int) -> float:
        """Return the top of a floor's boxes."""
        return self.TOP + 70 + (max(self.floor.values()) - level) * self.FLOOR

    def draw(self) -> str:
        """Return the panel's SVG elements."""
        lead = (
            "A room imports only rooms on lower floors. Arrows lead to the rooms that it imports,"
            " without those that follow from other arrows."
        )
        parts = [
            text(30, self.TOP + 20, "Rooms", "title", "start"),
            text(30, self.TOP + 40, lead, "lead", "start"),
            *(self._edge(chain) for chain in self.chains),
            *(self._room(room) for room in sorted(self.floor)),
            self._foundation(),
        ]
        return "\n".join(parts)

    def _room(self, room: str) -> str:
        style, purpose = ROOMS[room]
        x, y = self.x[room], self._y(self.floor[room])
        height = self.FLOOR - self.GAP
        count = self.files[room]
        size = "__init__.py" if room == "segkit" else f"{count} files"
        return "\n".join(
            (
                box(x - self.BOX_WIDTH / 2, y, self.BOX_WIDTH, height, f"box {style}"),
                text(x, y + 21, room, "name"),
                text(x, y + 38, purpose, "purpose"),
                text(x, y + 53, size, "files"),
            )
        )

    def _foundation(self) -> str:
        y, height = self._y(-1), self.FLOOR - self.GAP
        half = len(FOUNDATION) // 2  # one row would be wider than the box
        return "\n".join(
            (
                box(20, y, WIDTH - 40, height, "box use"),
                text(WIDTH / 2, y + 21, " · ".join(FOUNDATION[:half]), "name"),
                text(WIDTH / 2, y + 38, " · ".join(FOUNDATION[half:]), "name"),
                text(WIDTH / 2, y + 53, "the foundation: every room may import these", "purpose"),
            )
        )

    def _edge(self, chain: Sequence[str]) -> str:
        """Draw an arrow through the nodes of a chain."""
        room, target = chain[0], chain[-1]
        height = self.FLOOR - self.GAP
        x, y = self._port(room, target), self._y(self.floor[room]) + height
        path = [f"M{x:.0f} {y:.0f}"]
        for node in chain[1:]:
            last = node == target
            level = self.floor[target] if last else int(node.rsplit(">", 1)[1])
            end_x = self._port(target, room) if last else self.x[node]
            end_y = self._y(level) - (5 if last else 0)
            bend = (end_y - y) / 2
            path.append(
                f"C{x:.0f} {y + bend:.0f} {end_x:.0f} {end_y - bend:.0f} {end_x:.0f} {end_y:.0f}"
            )
            x, y = end_x, end_y
            if not last:
                y += height
                path.append(f"V{y:.0f}")
        style = ROOMS[room][0]
        return f'<path class="edge {style}" d="{"".join(path)}" marker-end="url(#tip-{style})"/>'

    def _port(self, room: str, end: str) -> float:
        """Return where an arrow to or from `end` meets a room: ports are spread along its side."""
        below = self.floor[end] < self.floor[room]
        ends = [
            (self.x[chain[1] if below else chain[-2]], chain[-1] if below else chain[0])
            for chain in self.chains
            if (chain[0] if below else chain[-1]) == room
        ]
        names = [name for _, name in sorted(ends)]
        step = min(30.0, (self.BOX_WIDTH - 30) / max(len(names), 1))
        return self.x[room] + (names.index(end) - (len(names) - 1) / 2) * step


def markers(styles: Iterable[str]) -> str:
    """Define the arrowheads."""
    shape = 'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"'
    heads = [f'<marker id="tip" {shape}><path class="tip" d="M0 0L8 4L0 8z"/></marker>']
    for style in styles:
        path = f'<path class="edge {style}" d="M1 1L7 4L1 7"/>'
        heads.append(f'<marker id="tip-{style}" {shape}>{path}</marker>')
    return f"<defs>{''.join(heads)}</defs>"


def drawing() -> str:
    """Return the SVG of the current source."""
    modules = read_modules(("segkit", "commands"))
    files: dict[str, int] = defaultdict(int)
    for module in modules.values():
        files[module.room] += module.file.name != "__init__.py"
    flow, floors = FlowPanel(), FloorPanel(room_graph(modules), files)
    height = floors.TOP + floors.height
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
            ' aria-label="Architecture of segkit: data flow and rooms">',
            f"<style>{STYLE}</style>",
            markers(sorted({style for style, _ in ROOMS.values()})),
            f'<rect class="page" width="{WIDTH}" height="{height}"/>',
            flow.draw(),
            floors.draw(),
            "</svg>\n",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    arguments = parser.parse_args()
    svg = drawing()
    if not arguments.check:
        DRAWING.write_text(svg, "utf-8")
    elif not DRAWING.is_file() or DRAWING.read_text("utf-8") != svg:
        sys.exit("docs/architecture.svg is out of date; run: python scripts/architecture.py")


if __name__ == "__main__":
    main()
