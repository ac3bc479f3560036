"""Count lines of code, room by room: without docstrings, comments and blank lines.

python tests/lines.py                     # of this checkout
python tests/lines.py FOLDER [FOLDER]     # of others, side by side, such as one of an earlier version
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

NOT_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def lines_of_code(path):
    """How many lines of a file hold code."""
    text = path.read_text()
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NOT_CODE:
            found |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and body
            and ast.get_docstring(node) is not None
        ):
            found -= set(range(body[0].lineno, body[0].end_lineno + 1))
    return len(found)


def rooms(root):
    """Lines of code by room: folders of the package, and the files at its top together."""
    counts = Counter()
    for folder in ("lcnumba", "tests", "bench"):
        for path in (root / folder).rglob("*.py"):
            inner = path.relative_to(root / folder).parts[:-1]
            counts[".".join((folder, *inner)) if folder == "lcnumba" else folder] += lines_of_code(path)
    return counts


def main():
    """Print the table."""
    roots = [Path(name) for name in sys.argv[1:]] or [Path(__file__).parents[1]]
    counted = [rooms(root) for root in roots]
    for counts in counted:
        counts["lcnumba, all"] = sum(count for name, count in counts.items() if name.startswith("lcnumba"))
    for name in sorted(set().union(*counted)):
        print(f"{name:28}", *(f"{counts[name]:7,}" for counts in counted))


if __name__ == "__main__":
    main()
