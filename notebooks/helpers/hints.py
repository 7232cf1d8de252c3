"""What each task of the exercises is worth, how hard it is, and its two hints, which never hold the answer.

hints.hint("forks", 1)       where to look
hints.hint("forks", 2)       how to go about it
"""

from __future__ import annotations

from typing import NamedTuple


class Worth(NamedTuple):
    """What a task is worth, how hard it is (1 to 3), and its two hints."""

    points: int
    level: int
    hints: tuple[str, str]

    def __str__(self) -> str:
        many = f"{self.points} point{'s' * (self.points != 1)}"
        return f"{many}, {'★' * self.level}{'☆' * (3 - self.level)}"


# Name of the check or task -> its worth. The exercises show points and stars; a test compares.
WORTH = {
    "forks": Worth(2, 2, (
        'The figure "The pool breathes" in 01: count the new children of each second.',
        "Once a second the parent counts idle children. Write down for each second how many children there "
        "are and how many are still missing; the rate starts at its lowest and grows while some are missing.",
    )),
    "full_house": Worth(1, 1, (
        '"When processes run out" in 01: what did the late clients measure?',
        "Ask who could send something to this client: list the processes, and what each of them does.",
    )),
    "twenty_at_once": Worth(2, 2, (
        "How many processes may there be at most? Two directives say so under prefork.",
        "A client that keeps its connection keeps a process. Compare the number of clients with each number "
        "in ROOM.",
    )),
    "real_limit": Worth(1, 2, (
        "Run mpmkit -t with these three directives: what does the server say when it starts?",
        "Threads live in processes. How many processes may there be, and what does each of them bring?",
    )),
    "admits": Worth(2, 2, (
        '"Many connections, few threads" in 03 has the rule.',
        "A child counts its threads once, and adds the factor for each thread that is idle at this moment.",
    )),
    "eighty_in_eight": Worth(2, 2, (
        "Which directive of event is about connections, not about threads?",
        "With all eight threads idle: by how much must the rule of task 1 grow to reach eighty?",
    )),
    "clinic": Worth(3, 2, (
        "Say for each letter what the worker waits for (00 has the letters).",
        "Then ask which directive puts a bound on that wait, or gives more of what has run out.",
    )),
    "in_use": Worth(1, 1, (
        '"What top shows" in 06: which sum stays the same when a page is shared?',
        "Take a page that four processes share: what does each of the three sums make of it?",
    )),
    "sizing": Worth(3, 2, (
        'The four lines of "MaxRequestWorkers from memory" in 06.',
        "In this order: what is the machine allowed to give, what is gone before the first worker, how many "
        "whole workers fit into the rest, and what if nothing is left?",
    )),
    "little": Worth(1, 1, (
        "Little's law, in 08: three quantities, of which you know two.",
        "Bring both to seconds first.",
    )),
    "closed_loop": Worth(2, 2, (
        '"The closed loop" in 08: what does one user do from one request to the next?',
        "How long does one round of one user take, and how many users go round at the same time?",
    )),
    "paired": Worth(2, 1, (
        "Each round met another machine. Compare within a round, then over the rounds (04).",
        "Take the ratio of each round first. The mean of ratios is taken of their logarithms.",
    )),
    "decided": Worth(3, 2, (
        "Two questions for each table: was the server the limit, and does the 95% interval hold 1?",
        "mpmkit.measure.stats.ratio gives the interval. Look at the columns of the generator before it.",
    )),
    "rounds": Worth(3, 3, (
        "How far does a 95% interval reach to each side? The answer has a square root in it.",
        "The reach is t · s / √n on the logarithms, and t depends on n, too "
        "(mpmkit.measure.stats.t_quantile). Try one n after the other.",
    )),
    "locked": Worth(3, 2, (
        "Between which two lines can another thread come in? (05)",
        "A lock costs as much as what is done while it is held. What has to be inside, and what has not?",
    )),
    "ceiling": Worth(2, 2, (
        "Two things bound the rate: the threads, and what only one of them can do at a time.",
        "Compute both bounds in requests a second, with times in seconds. Which one is reached first?",
    )),
    "across": Worth(3, 3, (
        "A lock of the threading module lives in one process. What do all processes share?",
        "A file, and a lock that the kernel keeps on it. Read, add and write while it is held; make the page "
        "while it is not.",
    )),
    "scoreboards": Worth(5, 3, (
        "First the letter that fills the board, then the connections without a thread and the listen queue.",
        "For each board: what do the workers wait for, who could end that wait, and is anything missing at "
        "all? The last lines below the picture say which pages are asked for.",
    )),
    "threads": Worth(3, 2, (
        "The cache is there once for each process. How many processes fit, and who carries the rest?",
        "Choose the number of processes by memory, the threads by the requests, and ask where a connection "
        "waits that only waits.",
    )),
    "processes": Worth(3, 3, (
        "One request a process: memory bounds the processes. What do the browsers hold after their page?",
        "Compute how many processes fit. There are more browsers than that, so no browser may keep one.",
    )),
}  # fmt: skip


def hint(name: str, step: int = 1) -> str:
    """A hint for a task: step 1 says where to look, step 2 how to go about it. Raises ValueError."""
    if name not in WORTH or step not in (1, 2):
        raise ValueError(f"no hint {step!r} for {name!r}: steps 1 and 2 of {', '.join(WORTH)}")
    return WORTH[name].hints[step - 1]
