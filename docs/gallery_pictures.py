"""For the gallery: the figure in which a block of an example ends is its picture."""

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst


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
    return figure_rst([path], gallery_conf["src_dir"], fig_titles="; ".join(titles).replace("\n", " "))
