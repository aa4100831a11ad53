"""Holds back everything that a program registers until the whole program has run and a check has accepted it.

While the program's own lines run, the SDK only notes the resources; it sends them afterwards. So `held` makes every
resource wait for one more Output. When the program has run, the check sees all of them and may refuse.
A run that is refused, or fails, has registered nothing but the stack itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pulumi

Registration = pulumi.ResourceTransformationArgs
_T = TypeVar("_T")


@contextlib.contextmanager
def held(judge: Callable[[list[Registration]], Awaitable[_T]]) -> Iterator[pulumi.Output[_T]]:
    """Holds back what the block registers. `judge` gets all of it at the end; an error that it raises ends the run. The
    block gets what `judge` returns."""
    registered: list[Registration] = []
    through: asyncio.Future[None] = asyncio.get_event_loop().create_future()

    async def decide() -> _T:
        await through
        return await judge(registered)

    verdict = asyncio.ensure_future(decide())
    judged: pulumi.Output[_T] = pulumi.Output.from_input(verdict)  # type: ignore[arg-type]
    # An Output without a value: resources wait for it, and the state gets no dependency.
    nothing: pulumi.Output[Any] = judged.apply(lambda _: None)
    waits = pulumi.ResourceOptions(depends_on=[nothing])

    def hold(args: Registration) -> pulumi.ResourceTransformationResult:
        if verdict.done():
            raise RuntimeError(f"{args.type_} {args.name}: made when the others had been judged")
        registered.append(args)
        return pulumi.ResourceTransformationResult(args.props, pulumi.ResourceOptions.merge(args.opts, waits))

    pulumi.runtime.register_stack_transformation(hold)
    try:
        yield judged
    except BaseException as error:
        through.set_exception(error)
        raise
    through.set_result(None)
