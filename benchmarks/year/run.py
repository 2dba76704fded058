"""Simulate several years and write RESULTS.md: `python -m benchmarks.year.run [--years 4]`."""

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

from benchmarks.year.simulation import Challenge, Simulation, Year, backend_installed
from benchmarks.year.world import MONTHLY_USD

HERE = Path(__file__).parent
RULES = ("ours", "best single run", "latest single run")
RULE_DESCRIPTIONS = {
    "ours": "ours: paired evidence on the test split",
    "best single run": "promote the best single run if its validation score is a new record",
    "latest single run": "promote the best single run of each night",
}


def main() -> None:
    """Simulate the years and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--years", type=int, default=4)
    parser.add_argument("--days", type=int, default=365)
    options = parser.parse_args()
    began = time.process_time()
    years: list[Year] = []
    for seed in range(1, options.years + 1):
        years.append(simulate_year(seed, options.days))
        print(f"year {seed}: {time.process_time() - began:.0f} s of CPU", flush=True)
        text = results(years, options.days, time.process_time() - began)
        # write after every year, so that an interruption loses no finished year
        if options.days == 365:
            (HERE / "RESULTS.md").write_text(text, encoding="utf-8")
    print(text)


def simulate_year(seed: int, days: int) -> Year:
    """Simulate one year with all files in memory."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="year-", dir=memory if memory.is_dir() else None))
    try:
        with backend_installed(root / "site"):
            return Simulation(root, seed, days).run()
    finally:
        shutil.rmtree(root)


def results(years: Sequence[Year], days: int, cpu_s: float) -> str:
    """Return the text of RESULTS.md."""
    teams = [(year, team) for year in years for team in year.nights]
    outcomes = Counter(night.state.value for year, team in teams for night in year.outcomes(team).values())
    attempts = Counter(night.state.value for year, team in teams for night in year.nights[team])
    planned = sum(len(year.planned[team]) for year, team in teams)
    months = [usd for year, team in teams for usd in year.spent[team].values()]
    lines = [
        "# Simulated years: results",
        "",
        f"{len(years)} years of {days} days with two teams each (Berlin at 02:30, Newfoundland at 22:30):",
        f"{planned:,} nights in {cpu_s:.0f} s of CPU time. README.md lists the real parts and the stand-ins.",
        "",
        "## Nights",
        "",
        f"Of {planned:,} planned nights, {sum(outcomes.values()):,} are accounted for, with one outcome each.",
        "",
        "| outcome | nights | attempts |",
        "|---|---|---|",
        *(f"| {state} | {outcomes.get(state, 0):,} | {count:,} |" for state, count in attempts.most_common()),
        "",
        "## Money",
        "",
        f"The limit is ${MONTHLY_USD:g} per month and team. By the service's own records of its charges,",
        f"{len(months)} months cost ${mean(months):.2f} on average and ${max(months):.2f} at most;"
        f" {sum(usd > MONTHLY_USD + 1e-9 for usd in months)} exceeded the limit,"
        f" {sum(usd > 0.9 * MONTHLY_USD for usd in months)} used more than 90 % of it.",
        "",
        "## Champions",
        "",
        "| rule | challenges | promotions | false ones | share | worse challengers that win | mean true quality |",
        "|---|---|---|---|---|---|---|",
    ]
    for index, rule in enumerate(RULES):
        rules = [year.rules[team][index] for year, team in teams]
        challenges = [challenge for rule_of in rules for challenge in rule_of.challenges]
        qualities = [quality for rule_of in rules for quality in rule_of.served if not math.isnan(quality)]
        lines.append(_row(RULE_DESCRIPTIONS[rule], challenges, mean(qualities)))
    lines += [
        "",
        "A promotion is false if the new champion's true quality on that day is below the old one's. *Share* is the",
        "share of promotions that are false. *Worse challengers that win* is the share of challenges by a worse",
        "model that led to a promotion, with its 95 % interval (Wilson). The stated rate of our rule is at most 2.5 %",
        "per challenge.",
        "*Mean true quality* is the share of all possible examples that the champion of the day answers correctly,",
        "over all days with a champion.",
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, challenges: Sequence[Challenge], quality: float) -> str:
    promoted = [challenge for challenge in challenges if challenge.promoted]
    worse = [challenge for challenge in challenges if challenge.challenger < challenge.champion]
    false = sum(challenge.false for challenge in challenges)
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
