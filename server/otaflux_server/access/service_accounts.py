"""ServiceAccounts: the API server tells whose a token is (`authentication.k8s.io/v1` TokenReview).

https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import structlog
from kubernetes.aio.client import (
    ApiClient,
    AuthenticationV1Api,
    V1TokenReview,
    V1TokenReviewSpec,
)

from otaflux_server.access.callers import AccessRefusal, CallerRefused
from otaflux_server.kubernetes import cluster_configuration

log = structlog.get_logger(__name__)

YES_SECONDS = 60.0
"""How long a token that was good is taken without asking again."""
NO_SECONDS = 5.0
_REVIEW_SECONDS = 5.0
_MOST_KNOWN = 1024
_AT_ONE_TIME = 4
_MOST_WAITING = 64

_Answer = TypeVar("_Answer", None, CallerRefused)
_Known = OrderedDict[bytes, tuple[float, _Answer]]


class ServiceAccounts:
    """`Callers` that are one of `accounts` (each `NAMESPACE:NAME`), by a token for `audience`.

    `review` asks the API server; each answer is kept a while, by the token's hash.
    """

    def __init__(
        self,
        accounts: Iterable[str],
        audience: str,
        review: "TokenReviews",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._users = frozenset(f"system:serviceaccount:{account}" for account in accounts)
        self._audience = audience
        self._review = review
        self._clock = clock
        # Apart, so that whoever sends tokens at random does not have the good ones forgotten.
        self._accepted: _Known[None] = OrderedDict()
        self._refused: _Known[CallerRefused] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[CallerRefused | None]] = {}
        self._room = asyncio.Semaphore(_AT_ONE_TIME)

    async def check(self, token: str) -> None:
        """Asks at most once for a token at one time."""
        key = sha256(token.encode()).digest()
        until, refused = self._accepted.get(key) or self._refused.get(key) or (0.0, None)
        if self._clock() >= until:
            task = self._asking.get(key)
            if task is None:
                # (one that was good before finds room, whoever else waits)
                if len(self._asking) >= _MOST_WAITING and key not in self._accepted:
                    raise CallerRefused(
                        AccessRefusal.REVIEW_UNAVAILABLE, "too many tokens are being reviewed"
                    )
                task = asyncio.create_task(self._ask(key, token), name="token review")
                self._asking[key] = task
            refused = await asyncio.shield(task)
        if refused is not None:
            raise CallerRefused(refused.reason, str(refused))

    async def close(self) -> None:
        """Gives up what is being asked."""
        for task in list(self._asking.values()):
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        await self._review.close()

    async def _ask(self, key: bytes, token: str) -> CallerRefused | None:
        try:
            async with self._room:
                refused = self._judged(await self._review.status(token))
        except CallerRefused as unknown:
            return unknown  # not kept: the next request asks again
        finally:
            del self._asking[key]
        if refused is None:
            self._refused.pop(key, None)
            _keep(self._accepted, key, self._clock() + YES_SECONDS, None)
        else:
            self._accepted.pop(key, None)
            _keep(self._refused, key, self._clock() + NO_SECONDS, refused)
        return refused

    def _judged(self, status: dict[str, Any]) -> CallerRefused | None:
        """Why the caller is not let in; None: it is."""
        # An API server that does not know audiences names none: its yes is for another one.
        if status.get("authenticated") is not True or self._audience not in (
            status.get("audiences") or ()
        ):
            return CallerRefused(
                AccessRefusal.TOKEN_UNKNOWN,
                f"the API server does not take the token for the audience {self._audience!r}",
            )
        user = str((status.get("user") or {}).get("username", ""))
        if user not in self._users:
            return CallerRefused(
                AccessRefusal.OTHER_CALLER,
                f"{user!r} is none of OTAFLUX_INTERNAL__SERVICE_ACCOUNTS",
            )
        return None


def _keep(known: "_Known[_Answer]", key: bytes, until: float, answer: "_Answer") -> None:
    known[key] = (until, answer)
    known.move_to_end(key)
    while len(known) > _MOST_KNOWN:
        known.popitem(last=False)


class TokenReviews:
    """Asks the API server, by `kubeconfig` (None: the pod's service account) and `audience`."""

    def __init__(self, kubeconfig: Path | None, audience: str) -> None:
        self._kubeconfig = kubeconfig
        self._audience = audience
        self._api: ApiClient | None = None
        self._connecting = asyncio.Lock()
        self._failure = ""

    async def status(self, token: str) -> dict[str, Any]:
        """The `status` of the review. Raises CallerRefused: there is none."""
        spec = V1TokenReviewSpec(token=token, audiences=[self._audience])
        try:
            async with asyncio.timeout(_REVIEW_SECONDS):
                async with self._connecting:
                    if self._api is None:
                        self._api = ApiClient(await cluster_configuration(self._kubeconfig))
                api = AuthenticationV1Api(self._api)
                review = await api.create_token_review(V1TokenReview(spec=spec))
        except Exception as error:  # of many kinds; its text may quote the request
            status = getattr(error, "status", None)
            failure = f"{type(error).__name__}{f' {status}' if status else ''}"
            if failure != self._failure:
                log.error("tokens cannot be reviewed: callers get 503", why=failure)
            self._failure = failure
            raise CallerRefused(
                AccessRefusal.REVIEW_UNAVAILABLE,
                "the API server cannot be asked whether the token is good",
            ) from None
        self._failure = ""
        found: dict[str, Any] = self._api.sanitize_for_serialization(review.status) or {}
        return found

    async def close(self) -> None:
        """Closes connections to the API server."""
        if self._api is not None:
            await self._api.close()
            self._api = None
