"""When the servers are asked, and which of their answers is news."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from otaflux_operator.answers import Answers
from otaflux_operator.ports import Key
from tests.operator.fakes import QUICK, Cluster, eventually, rollout_key, running
from tests.operator.worlds import AT_ONCE, START, manifest

KEY = rollout_key()
RARELY = replace(QUICK, ask_steady=3600.0)


class Asked(Cluster):
    """Servers with a policy whose counts tell `updated` devices, and who was told what is new."""

    def __init__(self) -> None:
        super().__init__()
        self.at = START
        self.now = lambda: self.at
        self.updated = 0
        self.counts = lambda policy: {ring.name: {"members": self.updated} for ring in policy.rings}
        self.news: list[Key] = []

    def questions(self) -> int:
        return self.calls.count("served")

    async def asked_more(self) -> None:
        """Until two questions were answered that were not begun yet."""
        before = self.questions()
        await eventually(lambda: self.questions() >= before + 3)


@asynccontextmanager
async def asking() -> AsyncIterator[tuple[Asked, Answers]]:
    """Answers about a rollout whose policy is published, and which was looked at once."""
    site = Asked()
    site.put(KEY, manifest(rings=[{"name": "fleet", **AT_ONCE}]))
    site.tags["1.0.0"] = "1.0.0"
    async with running(site):
        await eventually(lambda: site.status(KEY).get("phase") == "Completed")
    site.calls.clear()
    answers = Answers(site.ports.servers, site.news.append, RARELY, site.now)
    task = asyncio.create_task(answers.run())
    try:
        answers.answer(KEY)
        await eventually(lambda: site.news == [KEY])
        answers.answer(KEY)
        site.news.clear()
        yield site, answers
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_counts_are_asked_for_often_while_they_are_judged() -> None:
    async with asking() as (site, answers):
        assert site.questions() == 1
        answers.expect(KEY, None, judging=True)
        await site.asked_more()
        answers.expect(KEY, None, judging=False)
        asked = site.questions()
        answers.expect(KEY, None, judging=True)
        await eventually(lambda: site.questions() > asked)


async def test_the_same_counted_again_is_no_news_until_it_is_old() -> None:
    async with asking() as (site, answers):
        answers.expect(KEY, None, judging=True)
        site.at += timedelta(seconds=19)
        await site.asked_more()
        assert site.news == []
        used = answers.answer(KEY)
        assert used.at == site.at, "whoever looks gets the latest, news or not"
        site.at += timedelta(seconds=19)
        await site.asked_more()
        assert site.news == []
        site.at += timedelta(seconds=1)
        await eventually(lambda: site.news != [])


async def test_what_was_counted_differently_is_news() -> None:
    async with asking() as (site, answers):
        answers.expect(KEY, None, judging=True)
        site.updated = 1
        await eventually(lambda: site.news != [])


async def test_that_servers_do_not_answer_is_news_once_it_was_used() -> None:
    async with asking() as (site, answers):
        answers.expect(KEY, None, judging=True)
        site.serving = False
        await eventually(lambda: site.news != [])
        assert answers.answer(KEY).problem
        site.news.clear()
        await site.asked_more()
        assert site.news == []
