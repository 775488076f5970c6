"""Holds the generated units and directories to modules/README.md: every directive of a unit has its line there, with its reason, and
every line there is kept by every unit; the same for directories and their modes.

usage: units.py README TREE, where TREE has lib/systemd/system and lib/tmpfiles.d"""

import pathlib
import re
import sys

# In no unit as it comes: a hook that somebody sets, a key from elsewhere.
OPTIONAL = {"OnFailure", "LoadCredential"}
ONLY_IN = {"ExecStartPre": "cis490-receiver.service"}

readme = pathlib.Path(sys.argv[1]).read_text()
tree = pathlib.Path(sys.argv[2])
wrong: list[str] = []


def rows(heading: str) -> list[list[str]]:
    """The rows of the table below a heading, without its first two lines."""
    section = readme.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def words(value: str) -> list[str]:
    """Values as they compare: a program without its folder (behind its prefixes, systemd.service(5)), yes for true."""
    return [re.sub(r"^([-+@:!]*)/(\S*/)?bin/", r"\1", "yes" if word == "true" else word) for word in value.split()]


reasons: dict[str, list[list[str]]] = {}
for cells in rows("Why each line of the units"):
    for name, value in re.findall(r"`([A-Za-z]+)=([^`]*)`", cells[0]):
        reasons.setdefault(name, []).append(words(value))

units = sorted((tree / "lib/systemd/system").glob("*.service"))
for path in units:
    unit: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if "=" in line:
            name, value = line.split("=", 1)
            unit.setdefault(name, []).extend(words(value))
    for name in unit.keys() - reasons.keys():
        wrong.append(f"{path.name}: {name}= has no reason in modules/README.md")
    for name, values in reasons.items():
        if name not in unit:
            if name not in OPTIONAL and ONLY_IN.get(name, path.name) == path.name:
                wrong.append(f"{path.name}: {name}= is missing, which modules/README.md gives a reason for")
            continue
        for value in values:
            if not set(value) <= set(unit[name]):
                wrong.append(f"{path.name}: {name}={' '.join(unit[name])}, but modules/README.md says {' '.join(value)}")
        if values == [[]] and unit[name] in (["false"], ["no"]):
            wrong.append(f"{path.name}: {name}= is off, and modules/README.md says why it is on")

directories = {cells[0].strip("`"): cells[1:4] for cells in rows("Directories")}
made = {}
for path in (tree / "lib/tmpfiles.d").glob("*.conf"):
    for line in path.read_text().splitlines():
        kind, directory, *rest = line.split()
        made[directory] = rest[:3]
        if directories.get(directory) != rest[:3]:
            wrong.append(f"{path.name}: {directory} is {' '.join(rest[:3])}, but modules/README.md says {directories.get(directory)}")
wrong += [f"{directory}: nothing makes it, and modules/README.md has it" for directory in directories.keys() - made.keys()]

print("\n".join(wrong) or f"{len(units)} units, {len(reasons)} directives with reasons, {len(made)} directories")
sys.exit(bool(wrong) or not units or not made)
