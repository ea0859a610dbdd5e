"""Writes hypernyms.json from WordNet 3.0's noun files.

    python -m perturb.models.hypernyms_table WORDNET     # a folder with data.noun and noun.exc of WordNet 3.0

Debian's package wordnet-base has the files in /usr/share/wordnet. WordNet's manual page wndb(5WN) has the format.
"""

import json
import sys
from pathlib import Path

from perturb.models.labels import imagenet_labels
from perturb.schemas.errors import ModelError

LICENSE = (
    "This software and database is being provided to you, the LICENSEE, by Princeton University under the "
    "following license. By obtaining, using and/or copying this software and database, you agree that you have "
    "read, understood, and will comply with these terms and conditions.: Permission to use, copy, modify and "
    "distribute this software and database and its documentation for any purpose and without fee or royalty is "
    "hereby granted, provided that you agree to comply with the following copyright notice and statements, "
    "including the disclaimer, and that the same appear on ALL copies of the software, database and "
    "documentation, including modifications that you make for internal use or for distribution. WordNet 3.0 "
    'Copyright 2006 by Princeton University. All rights reserved. THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" '
    "AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, EXPRESS OR IMPLIED. BY WAY OF EXAMPLE, BUT "
    "NOT LIMITATION, PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES OF MERCHANT- ABILITY OR FITNESS "
    "FOR ANY PARTICULAR PURPOSE OR THAT THE USE OF THE LICENSED SOFTWARE, DATABASE OR DOCUMENTATION WILL NOT "
    "INFRINGE ANY THIRD PARTY PATENTS, COPYRIGHTS, TRADEMARKS OR OTHER RIGHTS. The name of Princeton University "
    "or Princeton may not be used in advertising or publicity pertaining to distribution of the software and/or "
    "database. Title to copyright in this software, database and any associated documentation shall at all times "
    "remain with Princeton University and LICENSEE agrees to preserve same."
)


def hypernyms_table(wordnet: Path) -> str:
    """Return the text of hypernyms.json. Raises ModelError where a class is not in these files."""
    nouns = _nouns(wordnet / "data.noun")
    kept: dict[str, tuple[list[str], list[str]]] = {}
    wanted = [label.synset for label in imagenet_labels()]
    while wanted:
        key = wanted.pop()
        if key not in nouns:
            raise ModelError(f"{wordnet} has no synset {key}; give the files of WordNet 3.0")
        if key not in kept:
            kept[key] = nouns[key]
            wanted += nouns[key][1]
    last_words = {name.lower().split()[-1] for names, _ in kept.values() for name in names}
    plurals = {plural: roots for plural, roots in _plurals(wordnet / "noun.exc") if last_words & set(roots)}
    lines = [
        f"{json.dumps(key)}: {json.dumps({'names': names, 'hypernyms': above}, ensure_ascii=False)}"
        for key, (names, above) in sorted(kept.items())
    ]
    head = f'"wordnet": "3.0",\n"license": {json.dumps(LICENSE)},\n"plurals": {json.dumps(plurals, sort_keys=True)},'
    return "{\n" + head + '\n"synsets": {\n' + ",\n".join(lines) + "\n}\n}\n"


def _nouns(path: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Names and hypernyms by WordNet ID. Instances (`@i`) count as kinds."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            continue
        fields = line.split(" | ")[0].split()
        count = int(fields[3], 16)
        pointers = fields[4 + 2 * count + 1 :]
        found[f"n{fields[0]}"] = (
            [word.replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]],
            [f"n{pointers[place + 1]}" for place in range(0, len(pointers) - 3, 4) if pointers[place] in ("@", "@i")],
        )
    return found


def _plurals(path: Path) -> list[tuple[str, list[str]]]:
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return [(plural, roots) for plural, *roots in lines if "_" not in plural]


if __name__ == "__main__":
    (Path(__file__).parent / "hypernyms.json").write_text(hypernyms_table(Path(sys.argv[1])), encoding="utf-8")
