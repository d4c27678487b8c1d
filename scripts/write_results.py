"""Write the tables of docs/results.md, docs/results/comparison.md and README.md from saved records.

    python scripts/write_results.py                    # rewrite these files
    python scripts/write_results.py --check            # exit status 1 if that would change a file
    python scripts/write_results.py --add TABLE RUN_DIR ... [--note COMMAND]

docs/records/*.json hold lists of records, docs/records/results.md the text around the tables. A
record is a run's result.json and the keys `table`, `row`, `column`, `command` and `commit`; COSTS
says which of its numbers a table can show. The records of one row and column are seeds of one
measurement: their scores are averaged and listed (of five or more the standard deviation, and how
many failed), the costs are those of the first. What scripts/bench/run.py wrote lies in
docs/records/bench; `<!-- bench: NAME -->` is the place of its table. docs/records/comparison.md is
the text of the other page; what scripts/comparison.py and scripts/racing.py wrote lies in
docs/records/comparison (`<!-- comparison: NAME -->`, `<!-- racing: NAME -->`). A record marked
`transcribed` was copied from an older text; it makes way for a measured one of the same row and
column. `--add` copies the result.json of finished runs into docs/records/TABLE.json.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from bench.run import table as bench_table
from comparison import section as compared
from racing import section as raced

ROOT = Path(__file__).resolve().parents[1]
Record = dict[str, Any]
Cell = Callable[[list[Record]], str]  # the records of a row -> what a column shows

COSTS = {  # heading -> short name, key in result.json, divisor; shown if any row has the number
    "kbit": ("kbit", "description.bits", 1e3),
    "compression": ("compression", "description.compression", 1),
    "trained, body": ("body", "params.body_trainable", 1),
    "trained, head": ("head", "params.head_trainable", 1),
    "trained": ("trained", "", 1),
    "ms a step": ("step_ms", "", 1),
    "ms, PEFT": ("peft_step_ms", "", 1),
    "seconds": ("train_seconds", "time.train_seconds", 1),
    "seconds in all": ("total_seconds", "time.total_seconds", 1),
    "peak MB": ("peak_mb", "memory.peak_rss_bytes", 1e6),
    "peak MB, PEFT": ("peft_peak_mb", "", 1),
    "saved kB": ("saved_kb", "delta_bytes", 1e3),
}
README_TABLE, README_COLUMN = "sst2_8000_v2", "accuracy"
README_ROWS = ("full", "lora", "dora", "vera", "ia3", "houlsby", "prefix", "bitfit", "prompt",
               "probe")  # fmt: skip
HEAD = "<!-- Written by scripts/write_results.py from docs/records: change it there. -->\n\n"
MANY = 5  # seeds, whose spread says more than a list
ABSOLUTE = re.compile(r"""(?:^|[\s=:,'"(\[])(?:/|~/|file:/+|[A-Za-z]:[\\/])[\w.]""")


# ---- records ----


def cost(record: Record, heading: str) -> float | None:
    """Return a number under its short name or its key in result.json; None if there is none."""
    name, key, divisor = COSTS[heading]
    if isinstance(record.get(name), int | float):  # the `head` of a run's record is a word
        return record[name]
    value: Any = record
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return None if value is None else value / divisor


def row_of(record: Record) -> str:
    return record.get("row", record["method"])


def column_of(record: Record) -> str:
    return record.get("column", record.get("metric", "score"))


def seeds_of(record: Record) -> tuple[tuple[int, int], ...]:
    """Return the repetitions that a record holds: its seeds, each with its few-shot draw."""
    fold = record.get("settings", {}).get("data.fold", 0)
    return tuple((seed, fold) for seed in record.get("seeds", [record.get("seed", 0)]))


def strings(value: Any) -> Iterable[str]:
    """Yield every string in a JSON value."""
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, str):
        yield value
    elif not isinstance(value, int | float | None):
        for inner in value:
            yield from strings(inner)


def checked(record: Record, where: str) -> Record:
    """Return the record if it names its place and holds no path of anybody's computer."""
    missing = [key for key in ("table", "method", "command", "commit") if key not in record]
    if missing:
        raise SystemExit(f"{where}: a record has no {missing[0]!r}.")
    for text in strings(record):
        if ABSOLUTE.search(text):
            raise SystemExit(f"{where}: a record holds an absolute path, {text!r}. Shorten it.")
    return record


def read(folder: Path) -> list[Record]:
    """Return all records, without the transcribed ones that were measured again."""
    records = [
        checked(record, path.name)
        for path in sorted(folder.glob("*.json"))
        for record in json.loads(path.read_text(encoding="utf-8"))
    ]

    def place(record: Record) -> tuple[str, str, str]:
        return record["table"], row_of(record), column_of(record)

    measured = {place(r) for r in records if not r.get("transcribed")}
    return [r for r in records if not r.get("transcribed") or place(r) not in measured]


# ---- tables ----


def score_cell(records: list[Record]) -> str:
    """Return the score of a row and column: one number, mean (each seed), or before → after."""
    if not records:
        return ""
    first = records[0]
    mark = f" {first['mark']}" if "mark" in first else ""
    if first.get("data", {}).get("source") == "sample":
        mark += " (sample)"
    if first.get("select_on") == "validation":
        mark += " (chosen on these rows)"
    if first.get("status") == "rejected":
        return "rejected"
    if "before" in first:
        return f"{first['before']:.3f} → {first['after']:.3f}{mark}"
    seeds = [seed for record in records for seed in seeds_of(record)]
    if len(set(seeds)) < len(seeds):
        raise SystemExit(
            f"table {first['table']}, row {row_of(first)}: two records of one seed. Runs "
            "with other settings need another --row or --column."
        )
    each = [s for r in records for s in r.get("each", [r["score"]])]
    score = first["score"] if len(records) == 1 else statistics.mean(each)
    return f"{score:.3f}{spread(each, records)}{mark}"


def spread(each: list[float], records: list[Record]) -> str:
    """Return the scores of a few seeds; of many the standard deviation, and how many failed.

    A run has failed if its score is at most that of the trivial answer.
    """
    if len(each) < MANY:
        return f" ({', '.join(f'{s:.3f}' for s in each)})" if len(each) > 1 else ""
    trivial = records[0].get("baseline", {}).get("value")
    failed = sum(s <= trivial for s in each) if trivial is not None else 0
    failures = f", {failed} of {len(each)} failed" if failed else ""
    return f" ± {statistics.stdev(each):.3f}{failures}"


def distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(value for value in values if value is not None))


def rate_cell(records: list[Record]) -> str:
    """Return the learning rate, as in 5e-4; of two columns with two rates, both in their order."""
    settings = [record.get("settings", {}) for record in records]
    rates = distinct(s.get("optimizer.lr", s.get("lr")) for s in settings)
    digits = [f"{rate:e}".partition("e") for rate in rates]
    return "; ".join(f"{float(left):g}e{int(right)}" for left, _, right in digits)


def ratio_cell(records: list[Record]) -> str:
    ratios = [(r["ratio"], r["ratio_by_order"]) for r in records if "ratio" in r]
    return f"{ratios[0][0]:.3f} ({', '.join(f'{x:.3f}' for x in ratios[0][1])})" if ratios else ""


def cost_cell(heading: str) -> Cell:
    """Return the function that shows the first record's number, in four digits or more."""

    def cell(records: list[Record]) -> str:
        found = distinct(cost(record, heading) for record in records)
        value = round(found[0], 1 if found[0] < 1000 else None) if found else ""
        return f"{value:,}".removesuffix(".0") if found else ""

    return cell


def named(row: str, records: list[Record]) -> str:
    """Return the first cell: the method as code, and what else the row says."""
    method = records[0]["method"]
    return f"`{method}`{row.removeprefix(method)}" if row.startswith(method) else row


def grid(headings: list[str], align: list[str], rows: list[list[str]]) -> str:
    lines = [headings, align, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def has_score(record: Record) -> bool:
    return bool({"score", "before"} & record.keys()) or record.get("status") == "rejected"


def score_column(name: str) -> Cell:
    return lambda records: score_cell([r for r in records if has_score(r) and column_of(r) == name])


def table(records: list[Record]) -> str:
    """Return the Markdown table of records: a line per row, a column per score and cost."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(row_of(record), []).append(record)
    columns: list[tuple[str, str, Cell]] = [("rate", "--:", rate_cell)]
    names = distinct(column_of(record) for record in records if has_score(record))
    columns += [(name, "---", score_column(name)) for name in names]
    columns += [(heading, "--:", cost_cell(heading)) for heading in COSTS]
    columns += [("ratio (by order)", "--:", ratio_cell)]
    filled = [
        (heading, align, [cell(r) for r in rows.values()]) for heading, align, cell in columns
    ]
    filled = [column for column in filled if any(column[2])]
    first = [named(row, found) for row, found in rows.items()]
    return grid(
        ["method", *(heading for heading, _, _ in filled)],
        ["---", *(align for _, align, _ in filled)],
        [list(line) for line in zip(first, *(cells for _, _, cells in filled), strict=True)],
    )


def section(records: list[Record]) -> str:
    """Return the commands that made a table, the table, and the commits of its rows."""
    commands = "\n".join(
        f"    {command}" for command in distinct(r["command"] or None for r in records)
    )
    commits = " and ".join(f"`{commit}`" for commit in distinct(r["commit"] for r in records))
    source = f"Measured at {commits}." if commits else "The commit was not recorded."
    return f"{commands}\n\n{table(records)}\n\n{source}"


def origin(records: list[Record]) -> str:
    """Return how many records were copied from an older text; nothing if none were."""
    old = sum(bool(record.get("transcribed")) for record in records)
    if not old:
        return ""
    many = "All" if old == len(records) else f"{old} of the"
    return (
        f"{many} {len(records)} records were transcribed from the README of 0.1;\nthey are "
        "measured again as records come in."
    )


# ---- files ----


def bench(folder: Path, name: str) -> str:
    """Return the commands, the table, the machine and the commits of benchmarks."""
    made = [json.loads(file.read_text()) for file in sorted(folder.glob(f"{name}*.json"))]
    commands = "\n".join(f"    {one['command']}" for one in made)
    works = [work for one in made for work in one["works"]]
    facts = {key: ", ".join(distinct(str(one[key]) for one in made)) for key in made[0]}
    commits = " and ".join(f"`{commit}`" for commit in distinct(one["commit"] for one in made))
    return (
        f"{commands}\n\n{bench_table(works)}\n\nMeasured at {commits} on {facts['date']}: "
        f"{facts['device']}, {facts['cores']} cores, torch {facts['torch']}, transformers "
        f"{facts['transformers']}, PEFT {facts['peft']}."
    )


def results(text: str, records: list[Record], benches: Path) -> str:
    """Return docs/results.md: the text with its tables, and tables that the text does not name."""
    tables: dict[str, list[Record]] = {}
    for record in records:
        tables.setdefault(record["table"], []).append(record)
    for name in tables:
        if f"<!-- table: {name} -->" not in text:
            text += f"\n## {name}\n\n<!-- table: {name} -->\n"
    text = text.replace("<!-- origin -->", origin(records))
    text = re.sub(r"<!-- bench: (\w+) -->", lambda m: bench(benches, m[1]), text)
    return HEAD + re.sub(r"<!-- table: (\w+) -->", lambda m: section(tables[m[1]]), text)


def comparison(text: str, folder: Path) -> str:
    """Return docs/results/comparison.md: the text with the records that it names."""

    def read_one(match: re.Match[str]) -> str:
        made = json.loads((folder / f"{match[2]}.json").read_text(encoding="utf-8"))
        return {"comparison": compared, "racing": raced}[match[1]](made)

    return HEAD + re.sub(r"<!-- (comparison|racing): (\w+) -->", read_one, text)


def short_table(records: list[Record]) -> str:
    """Return the ten lines of README.md."""
    mine = [r for r in records if r["table"] == README_TABLE]
    lines = []
    for row in README_ROWS:
        found = [r for r in mine if row_of(r) == row]
        score = score_cell([r for r in found if column_of(r) == README_COLUMN]).partition(" ")[0]
        body, saved = cost_cell("trained, body")(found), cost_cell("saved kB")(found)
        lines.append([f"`{row}`", score, body, f"{saved} kB"])
    lines.sort(key=lambda line: line[1], reverse=True)
    headings = ["method", "accuracy", "trained parameters", "saved"]
    return grid(headings, ["---", "--:", "--:", "--:"], lines)


def between(text: str, new: str) -> str:
    start, end = "<!-- results:start -->", "<!-- results:end -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise SystemExit(f"README.md: {start} and {end} must each stand there once.")
    return f"{text.partition(start)[0]}{start}\n{new}\n{end}{text.partition(end)[2]}"


def written(root: Path) -> dict[Path, str]:
    """Return {file: the text it should have}."""
    docs, readme = root / "docs", root / "README.md"
    records = read(docs / "records")
    text, other = (
        (docs / "records" / name).read_text(encoding="utf-8")
        for name in ("results.md", "comparison.md")
    )
    return {
        docs / "results.md": results(text, records, docs / "records" / "bench"),
        docs / "results" / "comparison.md": comparison(other, docs / "records" / "comparison"),
        readme: between(readme.read_text(encoding="utf-8"), short_table(records)),
    }


def without_paths(value: Any) -> Any:
    """Return a JSON value in which every absolute path is its last name."""
    if isinstance(value, dict):
        return {
            k: without_paths(v) for k, v in value.items() if k not in ("output_dir", "directory")
        }
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def add(root: Path, args: argparse.Namespace) -> None:
    """Copy results into docs/records/TABLE.json; the same run again takes its old place."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    path = root / "docs" / "records" / f"{args.add}.json"
    records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []

    def place(record: Record) -> tuple[Any, ...]:
        same = (record.get(key) for key in ("model", "task", "variant"))
        return row_of(record), column_of(record), seeds_of(record), *same

    for folder in args.runs:
        record = without_paths(json.loads((folder / "result.json").read_text(encoding="utf-8")))
        record = {"table": args.add, "command": args.note, "commit": commit, **record}
        record |= {key: getattr(args, key) for key in ("row", "column") if getattr(args, key)}
        if record.get("status", "done") != "done":
            raise SystemExit(f"{folder}: the run is not done: {record.get('error')}")
        checked(record, str(folder))
        records = [r for r in records if place(r) != place(record)] + [record]
    path.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a file is stale")
    parser.add_argument("--add", metavar="TABLE", help="copy the results of runs to this table")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN_DIR")
    parser.add_argument("--note", default="", metavar="COMMAND", help="the command of these runs")
    parser.add_argument("--row", help="default: the method")
    parser.add_argument("--column", help="heading of the score; default: the metric")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the repository")
    args = parser.parse_args()
    if bool(args.add) != bool(args.runs):
        parser.error("--add TABLE and RUN_DIR belong together.")
    if args.add:
        add(args.root, args)
    stale = {p: t for p, t in written(args.root).items() if not p.exists() or p.read_text() != t}
    for path, text in stale.items():
        print(path.relative_to(args.root))
        if not args.check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    sys.exit(int(args.check and bool(stale)))


if __name__ == "__main__":
    main()
