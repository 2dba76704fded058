"""Lives through several years and writes RESULTS.md: `python -m benchmarks.year.run [--years 4]`."""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.year.simulate import Challenge, Simulation, Year, installed
from benchmarks.year.world import MONTHLY_USD

HERE = Path(__file__).parent
RULES = ("ours", "best single run", "latest single run")
WORDS = {
    "ours": "ours: paired evidence on the test split",
    "best single run": "promote the best single run when its validation score is a new record",
    "latest single run": "promote the best single run of each night",
}


def main() -> None:
    """Run the years and write the results."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--years", type=int, default=4)
    asked.add_argument("--days", type=int, default=365)
    years = asked.parse_args()
    began = time.process_time()
    found = []
    for seed in range(1, years.years + 1):
        found.append(lived(seed, years.days))
        print(f"year {seed}: {time.process_time() - began:.0f} s of CPU", flush=True)
        text = results(found, years.days, time.process_time() - began)
        if years.days == 365:  # after each year, so that what was lived through is not lost
            (HERE / "RESULTS.md").write_text(text, encoding="utf-8")
    print(text)


def lived(seed: int, days: int) -> Year:
    """Live through one year in memory."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="year-", dir=memory if memory.is_dir() else None))
    try:
        with installed(root / "site"):
            return Simulation(root, seed, days).run()
    finally:
        shutil.rmtree(root)


def results(years: Sequence[Year], days: int, cpu_s: float) -> str:
    """Return the tables."""
    teams = [(year, team) for year in years for team in year.nights]
    outcomes = Counter(night.state.value for year, team in teams for night in year.outcomes(team).values())
    attempts = Counter(night.state.value for year, team in teams for night in year.nights[team])
    planned = sum(len(year.planned[team]) for year, team in teams)
    months = [usd for year, team in teams for usd in year.spent[team].values()]
    lines = [
        "# A year in a minute: results",
        "",
        f"{len(years)} years of {days} days, two teams each (Berlin at 02:30, Newfoundland at 22:30),",
        f"{planned:,} nights; {cpu_s:.0f} s of CPU. README.md says what is real in it.",
        "",
        "## Nights",
        "",
        f"{planned:,} nights were planned, {sum(outcomes.values()):,} are accounted for, each with one outcome.",
        "",
        "| outcome | nights | attempts |",
        "|---|---|---|",
        *(f"| {state} | {outcomes.get(state, 0):,} | {count:,} |" for state, count in attempts.most_common()),
        "",
        "## Money",
        "",
        f"The limit is ${MONTHLY_USD:g} a month and team. By the service's own memory of its charges,",
        f"{len(months)} months cost ${mean(months):.2f} on average and ${max(months):.2f} at most;"
        f" {sum(usd > MONTHLY_USD + 1e-9 for usd in months)} exceeded the limit,"
        f" {sum(usd > 0.9 * MONTHLY_USD for usd in months)} used more than 90 % of it.",
        "",
        "## Champions",
        "",
        "| rule | challenges | promotions | false ones | share | a worse challenger wins | mean true quality |",
        "|---|---|---|---|---|---|---|",
    ]
    for index, rule in enumerate(RULES):
        rules = [year.rules[team][index] for year, team in teams]
        challenges = [each for rule_of in rules for each in rule_of.challenges]
        served = [each for rule_of in rules for each in rule_of.served if not math.isnan(each)]
        lines.append(_row(WORDS[rule], challenges, mean(served)))
    lines += [
        "",
        "A promotion is false where the new champion's true quality on that day is below the old one's; *share* is",
        "that of the promotions. *A worse challenger wins*: the share of the challenges by a worse model that were",
        "promoted, with its 95 % interval (Wilson). The stated rate of our rule is at most 2.5 % a challenge.",
        "*Mean true quality*: the share of all examples there could be that the champion of the day gets right, over",
        "the days that had one.",
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, challenges: Sequence[Challenge], quality: float) -> str:
    promoted = [each for each in challenges if each.promoted]
    worse = [each for each in challenges if each.challenger < each.champion]
    false = sum(each.false for each in challenges)
    low, high = _wilson(false, len(worse))
    share = f"{false / len(promoted):.1%}" if promoted else "-"
    rate = f"{false / len(worse):.1%} ({low:.1%} .. {high:.1%})" if worse else "-"
    return f"| {name} | {len(challenges):,} | {len(promoted):,} | {false:,} | {share} | {rate} | {quality:.4f} |"


def _wilson(hits: int, count: int) -> tuple[float, float]:
    if not count:
        return 0.0, 1.0
    z, share = 1.96, hits / count
    middle = share + z * z / (2 * count)
    wide = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (middle - wide) / (1 + z * z / count)), (middle + wide) / (1 + z * z / count)


if __name__ == "__main__":
    main()
