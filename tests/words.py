"""Words that the project does not use, each with the standard one: a part of ``make lint``.

Listed are those that have no other meaning, so that a search finds all of them; reviews find the rest. Deprecated
aliases are allowed where they are defined and tested.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Regular expressions, of identifiers and prose, and the standard word.
WORDS = {
    r"take_dy": "pack_dy",
    r"\bsettle\b": "apply_block_gradient",
    r"[Rr]estrain": "Regularization, regularized",
    r"bring_back|brought back|bring back": "project",
    r"\bDESCENT\b": "SGD_REGULARIZED",
    r"\bWeightless\b|weightless": "Stateless",
    r"beyond_the_batch|lanes beyond the batch": "zero_padding_lanes",
    r"\b_Derivatives\b|\bDerivatives\((?!s)|import .*\bDerivatives\b": "Vjp",
    r"\bFormCache\b|\bMatrixForm\b": "layout",
    r"\bstep_fused\b|\bcheck_step\b|\bprepare_set\b|\bcarry_out\b": "plan, run",
    r"PIECE_BYTES|TURNED|HELD_BYTES": "k-block, transposed, cached",
    r"usual_rate|usual rate": "default_lr",
    r"\b[Rr]ecipe": "TrainingConfig",
    r"\b_?[Rr]emedy": "hint",
    r"\b_lighter\b": "hint",
    r"\breckon": "estimate",
    r"\beffort": "estimate, cost",
    r"\bcrew\b|line of work|lines of work": "thread pool, queue",
    r"\b_?ingest(ed)?\b": "as_numpy",
    r"\bfrozen\(": "read_only",
    r"run_in_slots|\bslots\(|\b_slots\b": "workers",
    r"\bstretch(es)?\b|STRETCH": "row tile",
    r"asked for early|asked for ahead": "prefetched",
    r"_border\b": "resume_point",
    r"broken[ -]off|break off|broke off": "interrupted",
    r"gone on from|goes on from|go on from|going on from": "resume",
    r"[Gg]one through once|gone through again": "one-shot iterator",
    r"[Cc]ode of users": "user code",
    r"\bof users' own|\busers' own": "custom",
    r"sweep\(": "remove_stale_temp_files",
    r"cannot be used; give": "must be ..., got ...",
    r"there is to run on": "prints the configuration",
    r"at best\b": "roofline",
}
# Where a word stands for a deprecated name, or in a formal text.
ALLOWED = {
    "tests/words.py": ".*",
    "CHANGELOG.md": ".*",
    "tests/data/version_0_1/make.py": ".*",
    "tests/test_deprecated.py": "[Rr]ecipe|usual_rate|effort|restrain",
    "tests/utils/test_display.py": "recipe",
    "tests/test_optimizers.py": "usual_rate",
    "lcnumba/models/sequential.py": "recipe",
    "lcnumba/optimizers.py": "usual_rate|restrain",
    "lcnumba/implementations/cost.py": "effort",
}


def found():
    """Yield place, line and standard word of each match."""
    folders = ("lcnumba", "tests", "bench", "docs", ".github")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*"))
    for path in sorted(
        path for path in paths if path.suffix in (".py", ".md", ".yml", ".toml") or path.name == "Makefile"
    ):
        name = path.relative_to(ROOT).as_posix()
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for word, standard in WORDS.items():
                for match in re.finditer(word, line):
                    if not re.fullmatch(ALLOWED.get(name, "(?!)"), match[0]):
                        yield f"{name}:{number}: {match[0]!r} is {standard!r} here: {line.strip():.80}"


def main():
    """Print what was found; the exit code is 1 if anything was."""
    lines = list(found())
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
