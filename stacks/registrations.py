"""Holds back everything that a program registers until the whole program has run and a check has accepted it.

While the program's own lines run, the SDK only notes the resources; it sends them afterwards. So `held` makes every
resource wait for one more Output. When the program has run, the check sees all of them and may refuse.
A run that is refused, or fails, has registered nothing but the stack itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pulumi

Registration = pulumi.ResourceTransformationArgs


@contextlib.contextmanager
def held(judge: Callable[[list[Registration]], Awaitable[None]]) -> Iterator[None]:
    """Holds back what the block registers. `judge` gets all of it at the end; an error that it raises ends the run."""
    made: list[Registration] = []
    through: asyncio.Future[None] = asyncio.get_event_loop().create_future()

    async def decide() -> None:
        await through
        await judge(made)

    verdict = asyncio.ensure_future(decide())
    # An Output without a value: resources wait for it, and the state gets no dependency.
    nothing: pulumi.Output[Any] = pulumi.Output.from_input(verdict)  # type: ignore[arg-type]
    waits = pulumi.ResourceOptions(depends_on=[nothing])

    def hold(args: Registration) -> pulumi.ResourceTransformationResult:
        if verdict.done():
            raise RuntimeError(f"{args.type_} {args.name}: made when the others had been judged")
        made.append(args)
        return pulumi.ResourceTransformationResult(args.props, pulumi.ResourceOptions.merge(args.opts, waits))

    pulumi.runtime.register_stack_transformation(hold)
    try:
        yield
    except BaseException as error:
        through.set_exception(error)
        raise
    through.set_result(None)
