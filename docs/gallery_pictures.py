"""For the gallery: its order, and the figure in which a block of an example ends is its picture."""

from pathlib import Path

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

EXAMPLES = (
    "digits", "faces", "cortical_sheet", "autoencoder", "stream", "downscaling", "genes", "causal_discovery", "lbfgs",
    "frameworks", "two_ranks",
)  # fmt: skip


class Order:
    """The place of an example in the gallery, given its file."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, file):
        """Return the place."""
        return EXAMPLES.index(Path(file).stem.removeprefix("plot_"))

    def __repr__(self):
        return "Order"


def scrape(block, block_vars, gallery_conf, dpi=100):
    """Save the figure that is the value of the last line of a block, if it is one."""
    names = block_vars["example_globals"]
    value = names.get("___")
    if not isinstance(value, Figure):
        return ""
    names["___"] = None  # it stays until another block ends in an expression
    path = str(next(block_vars["image_path_iterator"]))
    value.savefig(path, dpi=dpi)
    titles = [text for axes in value.axes if (text := axes.get_title() or axes.get_ylabel())]
    return figure_rst(
        [path], gallery_conf["src_dir"], fig_titles="; ".join(titles).replace("\n", " ")
    )
